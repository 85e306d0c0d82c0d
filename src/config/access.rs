//! `[access]`: who is let in, and out, before any test.

use std::fs;
use std::path::{Path, PathBuf};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use toml::Spanned;
use toml::de::DeValue;

use super::inspection::{Inspection, Wrong};
use super::problem::Place;
use super::table::Table;
use super::values::{network, parse_network, text};
use crate::policy::access::{Access, AccessList};

/// What `[access]` says: `rules` in their order, then `allow`, then `deny`.
#[derive(Debug)]
pub(super) struct AccessEntry {
    entries: Vec<(IpNet, Access)>,
}

impl AccessEntry {
    /// Reads `[access]`; nothing if the file has none here. List files are looked for below `folder`.
    pub(super) fn read(table: &mut Table<'_>, folder: &Path) -> Option<Self> {
        let inspection = table.inspection();
        let rules = table.list("rules", rule);
        let allow = table.list("allow", network);
        let allow_files = table.list("allow_file", |value| text(value).map(PathBuf::from));
        let deny = table.list("deny", network);
        let deny_files = table.list("deny_file", |value| text(value).map(PathBuf::from));
        table.span()?;

        let inline = |list: Option<Spanned<Vec<Spanned<IpNet>>>>, say| {
            let list = list.map(Spanned::into_inner).unwrap_or_default();
            list.into_iter().map(move |network| (network.span(), (network.into_inner(), say)))
        };
        let from_files = |files: Option<Spanned<Vec<Spanned<PathBuf>>>>, say| {
            let files = files.map(Spanned::into_inner).unwrap_or_default();
            let networks = files.into_iter().flat_map(|file| read_list(&file, folder, inspection));
            networks.map(|network| (network, say)).collect::<Vec<_>>()
        };

        let first = rules.map(Spanned::into_inner).unwrap_or_default();
        let mut written: Vec<_> = first.into_iter().map(|rule| (rule.span(), rule.into_inner())).collect();
        let mut unwritten = Vec::new();
        if allow.is_none() {
            unwritten.extend(loopback());
        }
        written.extend(inline(allow, Access::Allow));
        let allowed = written.len();
        written.extend(inline(deny, Access::Deny));
        judge(&written, inspection);

        let denied = written.split_off(allowed);
        let plain = |(_, entry)| entry;
        let mut entries: Vec<_> = written.into_iter().map(plain).chain(unwritten).collect();
        entries.extend(from_files(allow_files, Access::Allow));
        entries.extend(denied.into_iter().map(plain));
        entries.extend(from_files(deny_files, Access::Deny));
        Some(Self { entries })
    }

    /// The list of a gate: its own, or else the file's, or else this machine's loopback.
    pub(super) fn list(own: Option<&Self>, above: Option<&Self>) -> AccessList {
        AccessList::new(own.or(above).map_or_else(|| loopback().to_vec(), |entry| entry.entries.clone()))
    }
}

/// Who is allowed unless the file says otherwise: this machine.
fn loopback() -> [(IpNet, Access); 2] {
    let v4 = Ipv4Net::new_assert(std::net::Ipv4Addr::new(127, 0, 0, 0), 8);
    let v6 = Ipv6Net::from(std::net::Ipv6Addr::LOCALHOST);
    [(v4.into(), Access::Allow), (v6.into(), Access::Allow)]
}

/// One of `rules`: `deny 192.0.2.7`.
fn rule(value: &DeValue<'_>) -> Result<(IpNet, Access), Wrong> {
    const REMEDY: &str = "write \"allow\", \"deny\" or \"test\", and a network: \"deny 192.0.2.0/24\"";
    let text = text(value)?;
    let wrong = || Wrong::new(format!("{text:?} is not a rule"), REMEDY);
    let (word, network) = text.trim().split_once(char::is_whitespace).ok_or_else(wrong)?;
    let say = match word {
        "allow" | "permit" => Access::Allow,
        "deny" | "reject" => Access::Deny,
        "test" | "dunno" => Access::Test,
        _ => return Err(wrong()),
    };
    Ok((parse_network(network.trim())?, say))
}

/// Warns of entries that an earlier one leaves without effect, and of everybody being allowed.
fn judge(entries: &[(std::ops::Range<usize>, (IpNet, Access))], inspection: &Inspection) {
    for (index, (span, (network, say))) in entries.iter().enumerate() {
        let earlier = entries.iter().take(index).find(|(_, (wider, _))| wider.contains(network));
        if let Some((first, (_, before))) = earlier {
            let how = if say == before { "this covers it" } else { "this is found first" };
            let remedy = "take it out, or move it into `rules`, above the other: the first match wins";
            inspection.warning_with(
                span.clone(),
                Wrong::new(format!("{network} has no effect here"), remedy),
                first.clone(),
                how,
            );
        }
        if network.prefix_len() == 0 && *say == Access::Allow {
            let remedy = "name the networks that you trust; everybody else is tested";
            inspection
                .warning(span.clone(), Wrong::new(format!("{network} allows everybody: nobody is tested"), remedy));
        }
    }
}

/// Reads a list file: one network a line, `#` begins a comment.
fn read_list(file: &Spanned<PathBuf>, folder: &Path, inspection: &Inspection) -> Vec<IpNet> {
    let path = folder.join(file.get_ref());
    let listed = match fs::read_to_string(&path) {
        Ok(listed) => listed,
        Err(reason) => {
            let remedy = "create the file, or correct the path (it is relative to this file's folder)";
            inspection.error(file.span(), Wrong::new(format!("cannot read {}: {reason}", path.display()), remedy));
            return Vec::new();
        }
    };
    let (networks, wrong) = parse_list(&listed);
    if networks.is_empty() && wrong.is_empty() {
        let remedy = "write one network a line into it";
        inspection.warning(file.span(), Wrong::new(format!("there is no network in {}", path.display()), remedy));
    }
    if !wrong.is_empty() {
        let source = inspection.add_source(path.display().to_string(), listed);
        for (span, wrong) in wrong {
            inspection.error_at(Place { source, span }, wrong);
        }
    }
    networks
}

type Mistakes = Vec<(std::ops::Range<usize>, Wrong)>;

fn parse_list(listed: &str) -> (Vec<IpNet>, Mistakes) {
    let (mut networks, mut wrong) = (Vec::new(), Vec::new());
    let mut offset = 0;
    for line in listed.split_inclusive('\n') {
        let entry = line.split_once('#').map_or(line, |(entry, _)| entry);
        let start = offset + (entry.len() - entry.trim_start().len());
        let entry = entry.trim();
        match parse_network(entry) {
            _ if entry.is_empty() => {}
            Ok(network) => networks.push(network),
            Err(reason) => wrong.push((start..start + entry.len(), reason)),
        }
        offset += line.len();
    }
    (networks, wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn list_files_hold_one_network_a_line() {
        let (networks, wrong) =
            parse_list("# ours\n192.0.2.0/24\n\n  2001:db8::1  # one\r\n\tnonsense\n198.51.100.1/24");
        assert_eq!(networks.iter().map(IpNet::to_string).collect::<Vec<_>>(), ["192.0.2.0/24", "2001:db8::1/128"]);
        let spans: Vec<_> = wrong.into_iter().map(|(span, _)| span).collect();
        assert_eq!(spans, [44..52, 53..68]);
    }
}
