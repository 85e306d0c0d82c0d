//! `[access]`: who is let in, and out, before any test.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use toml::Spanned;
use toml::de::DeValue;

use super::inspection::{Inspection, Wrong};
use super::problem::Place;
use super::table::Table;
use super::values::{self, not_a_network, parse_network, text};
use crate::policy::access::{Access, AccessList};
use crate::policy::network::{self, BadLine};

/// What `[access]` says: `rules` in their order, then `allow`, then `deny`.
#[derive(Debug)]
pub(super) struct AccessEntry {
    entries: Vec<(IpNet, Access)>,
    /// Which of them the file does not say.
    unwritten: Range<usize>,
}

impl AccessEntry {
    /// Reads `[access]`; nothing if the file has none here. List files are looked for below `folder`.
    pub(super) fn read(table: &mut Table<'_>, folder: &Path) -> Option<Self> {
        let inspection = table.inspection();
        let rules = table.list("rules", rule);
        let allow = table.list("allow", values::network);
        let allow_files = table.list("allow_file", |value| text(value).map(PathBuf::from));
        let deny = table.list("deny", values::network);
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
        let mut entries: Vec<_> = written.into_iter().map(plain).collect();
        let unsaid = entries.len()..entries.len() + unwritten.len();
        entries.extend(unwritten);
        entries.extend(from_files(allow_files, Access::Allow));
        entries.extend(denied.into_iter().map(plain));
        entries.extend(from_files(deny_files, Access::Deny));
        Some(Self { entries, unwritten: unsaid })
    }

    /// The list of a gate: its own, or else the file's, or else this machine's loopback. Behind a load balancer (`behind`)
    /// nobody is allowed unless the file says so: what it announces as loopback is not this machine.
    pub(super) fn list(own: Option<&Self>, above: Option<&Self>, behind: bool) -> AccessList {
        let mut entries = own.or(above).map_or_else(|| loopback().to_vec(), |entry| entry.entries.clone());
        if behind {
            drop(entries.drain(own.or(above).map_or(0..entries.len(), |entry| entry.unwritten.clone())));
        }
        AccessList::new(entries)
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
fn judge(entries: &[(Range<usize>, (IpNet, Access))], inspection: &Inspection) {
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

/// Reads a list file: one network a line, `#` or `;` begins a comment.
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
    let bad = match network::parse_lines(&listed) {
        Ok(networks) => {
            if networks.is_empty() {
                let cause = format!("there is no network in {}", path.display());
                inspection.warning(file.span(), Wrong::new(cause, "write one network a line into it"));
            }
            return networks;
        }
        Err(bad) => bad,
    };
    let source = inspection.add_source(path.display().to_string(), listed.clone());
    for BadLine { line, problem } in bad {
        let span = entry_span(&listed, line);
        inspection.error_at(Place { source, span }, not_a_network(&problem));
    }
    Vec::new()
}

/// Where the entry on a line (counted from 1) of a list file stands.
fn entry_span(listed: &str, line: usize) -> Range<usize> {
    let mut offset = 0;
    for (number, text) in (1..).zip(listed.split_inclusive('\n')) {
        if number == line {
            let trimmed = network::entry(text).trim_start_matches('\u{feff}').trim_start();
            let start = offset + text.find(trimmed).unwrap_or(0);
            return start..start + trimmed.len();
        }
        offset += text.len();
    }
    offset..offset
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_list_files_are_found_again() {
        let listed = "\u{feff}# ours\n192.0.2.0/24\n\n  2001:db8::1  # one\r\n\tnonsense ; two\n198.51.100.1/24";
        let at = |line| listed.get(entry_span(listed, line)).unwrap_or("?");
        assert_eq!(at(2), "192.0.2.0/24");
        assert_eq!(at(4), "2001:db8::1");
        assert_eq!(at(5), "nonsense");
        assert_eq!(at(6), "198.51.100.1/24");
        assert_eq!((at(1), at(3), at(7)), ("", "", ""));
    }
}
