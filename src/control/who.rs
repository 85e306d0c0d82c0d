//! Names of users and groups of this host, as far as its files know them.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

/// The most that is read of a file.
const MOST: u64 = 4 << 20;

/// A user's name; `uid:1000` where there is none.
pub fn user(uid: u32) -> String {
    let names = Path::new("/etc/passwd");
    entry(names, |fields| (fields.get(2)?.parse() == Ok(uid)).then(|| fields.first().map(ToString::to_string))?)
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| format!("uid:{uid}"))
}

/// The number of a group, given by its name or its number.
pub fn group(name: &str) -> Option<u32> {
    let of = |fields: &[&str]| (fields.first() == Some(&name)).then(|| fields.get(2)?.parse().ok())?;
    name.parse().ok().or_else(|| entry(Path::new("/etc/group"), of))
}

/// What `find` finds in the first line of a file where it finds something.
fn entry<T>(path: &Path, find: impl Fn(&[&str]) -> Option<T>) -> Option<T> {
    let file = BufReader::new(File::open(path).ok()?.take(MOST));
    file.lines().map_while(Result::ok).find_map(|line| find(&line.split(':').collect::<Vec<_>>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_hosts_users_and_groups_are_known() {
        assert_eq!((user(0), group("root"), group("0")), ("root".to_owned(), Some(0), Some(0)));
        assert_eq!((user(4_000_000_000), group("no such group")), ("uid:4000000000".to_owned(), None));
    }
}
