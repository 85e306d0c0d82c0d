//! Networks in order. Any two are apart, or one lies within the other: so a network's inner ones follow it, and its outer
//! ones are its own shorter prefixes.

use std::collections::BTreeMap;

use ipnet::IpNet;

/// Something for each of some networks, which are without host bits.
#[derive(Clone, Debug)]
pub(super) struct NetMap<V> {
    nets: BTreeMap<IpNet, V>,
    /// How many there are of each family and prefix length: a search skips those of which there is none.
    lengths: BTreeMap<(bool, u8), usize>,
}

impl<V> Default for NetMap<V> {
    fn default() -> Self {
        Self { nets: BTreeMap::new(), lengths: BTreeMap::new() }
    }
}

impl<V> FromIterator<(IpNet, V)> for NetMap<V> {
    fn from_iter<I: IntoIterator<Item = (IpNet, V)>>(nets: I) -> Self {
        let mut map = Self::default();
        nets.into_iter().for_each(|(net, value)| map.insert(net, value));
        map
    }
}

impl<V> NetMap<V> {
    pub(super) fn len(&self) -> usize {
        self.nets.len()
    }

    pub(super) fn get(&self, net: IpNet) -> Option<&V> {
        self.nets.get(&net)
    }

    pub(super) fn insert(&mut self, net: IpNet, value: V) {
        if self.nets.insert(net, value).is_none() {
            *self.lengths.entry(kind(net)).or_default() += 1;
        }
    }

    pub(super) fn remove(&mut self, net: IpNet) -> Option<V> {
        let removed = self.nets.remove(&net)?;
        if let Some(count) = self.lengths.get_mut(&kind(net)) {
            *count -= 1;
            if *count == 0 {
                self.lengths.remove(&kind(net));
            }
        }
        Some(removed)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (IpNet, &V)> {
        self.nets.iter().map(|(net, value)| (*net, value))
    }

    /// Those that are `net` or lie within it.
    pub(super) fn within(&self, net: IpNet) -> impl Iterator<Item = (IpNet, &V)> {
        self.nets.range(net..).map(|(inner, value)| (*inner, value)).take_while(move |(inner, _)| net.contains(inner))
    }

    /// The widest one that is `net` or has it in it.
    pub(super) fn widest(&self, net: IpNet) -> Option<IpNet> {
        let (v6, most) = kind(net);
        self.lengths
            .range((v6, 0)..=(v6, most))
            .filter_map(|(&(_, length), _)| IpNet::new(net.addr(), length).ok())
            .map(|outer| outer.trunc())
            .find(|outer| self.nets.contains_key(outer))
    }

    /// Whether one of them has an address in common with `net`.
    pub(super) fn touches(&self, net: IpNet) -> bool {
        self.within(net).next().is_some() || self.widest(net).is_some()
    }

    /// Those of `net` and within it that lie in no other: what says the same without overlaps.
    pub(super) fn outermost(&self, net: IpNet) -> impl Iterator<Item = (IpNet, &V)> {
        let mut around: Option<IpNet> = None;
        self.within(net).filter(move |(inner, _)| {
            let is_outer = around.is_none_or(|outer| !outer.contains(inner));
            if is_outer {
                around = Some(*inner);
            }
            is_outer
        })
    }
}

/// The family and the prefix length.
fn kind(net: IpNet) -> (bool, u8) {
    (matches!(net, IpNet::V6(_)), net.prefix_len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn map(nets: &[&str]) -> NetMap<()> {
        nets.iter().map(|text| (net(text), ())).collect()
    }

    fn texts<'a>(nets: impl Iterator<Item = (IpNet, &'a ())>) -> Vec<String> {
        nets.map(|(net, ())| net.to_string()).collect()
    }

    const SOME: &[&str] =
        &["10.0.0.0/8", "10.1.0.0/16", "10.1.2.3/32", "10.0.0.0/24", "11.0.0.0/32", "2001:db8::/32", "2001:db8::/64"];

    #[test]
    fn what_lies_within_and_around_is_found() {
        let map = map(SOME);
        assert_eq!(texts(map.within(net("10.1.0.0/16"))), ["10.1.0.0/16", "10.1.2.3/32"]);
        assert_eq!(texts(map.within(net("10.0.0.0/8"))).len(), 4);
        assert_eq!(texts(map.within(net("12.0.0.0/8"))), Vec::<String>::new());
        for (inner, widest) in [
            ("10.1.2.3/32", Some("10.0.0.0/8")),
            ("10.0.0.0/8", Some("10.0.0.0/8")),
            ("8.0.0.0/6", None),
            ("2001:db8::1/128", Some("2001:db8::/32")),
            ("2001:db9::1/128", None),
        ] {
            assert_eq!(map.widest(net(inner)), widest.map(net), "{inner}");
        }
        for (other, touches) in
            [("8.0.0.0/6", true), ("10.9.9.9/32", true), ("11.0.0.0/31", true), ("12.0.0.0/8", false), ("::/0", true)]
        {
            assert_eq!(map.touches(net(other)), touches, "{other}");
        }
    }

    #[test]
    fn what_was_taken_out_is_around_nothing() {
        let mut map = map(SOME);
        map.insert(net("10.0.0.0/8"), ());
        assert_eq!(map.len(), SOME.len());
        assert_eq!(map.remove(net("10.0.0.0/8")), Some(()));
        assert_eq!(map.remove(net("10.0.0.0/8")), None);
        assert_eq!(map.widest(net("10.1.2.3/32")), Some(net("10.1.0.0/16")));
        assert_eq!(map.widest(net("10.9.9.9/32")), None);
    }

    #[test]
    fn the_outermost_say_the_same_without_overlaps() {
        let map = map(SOME);
        assert_eq!(texts(map.outermost(net("0.0.0.0/0"))), ["10.0.0.0/8", "11.0.0.0/32"]);
        assert_eq!(texts(map.outermost(net("10.1.0.0/16"))), ["10.1.0.0/16"]);
        assert_eq!(texts(map.outermost(net("::/0"))), ["2001:db8::/32"]);
    }
}
