//! What a program and all that it started have used of the machine, from `/proc`.
//!
//! Processor time is there twice: exactly, for each thread that lives (`schedstat`), and in ticks of a hundredth of a second,
//! with threads and children that have ended (`stat`). Both together miss nothing: see [`Usage::since`].

use std::collections::BTreeMap;
use std::fs;
use std::io;

/// How many ticks a second has in `/proc/PID/stat`: USER_HZ, the same on every Linux that Debian makes.
const TICKS: f64 = 100.0;

/// By how much the coarse figure may be wrong for each process, in seconds: two of its ticks, user's and system's.
const COARSE: f64 = 2.0 / TICKS;

/// What a process tree has used of processors until now, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    exact: f64,
    ticks: f64,
    processes: usize,
}

impl Usage {
    /// What was used since `earlier`. Threads that ended in between are in the ticks alone, so those are believed where
    /// they are further away than they can be wrong.
    pub fn since(&self, earlier: &Self) -> f64 {
        let (exact, ticks) = (self.exact - earlier.exact, self.ticks - earlier.ticks);
        exact.max(ticks - COARSE * self.processes.max(earlier.processes) as f64).max(0.0)
    }
}

/// What `/proc/PID/stat` says of one process, as far as it is needed.
#[derive(Clone, Debug, PartialEq)]
pub struct Stat {
    /// The program's name, 15 bytes of it.
    pub name: String,
    /// The parent.
    pub parent: i32,
    /// Seconds that it has used itself, rounded.
    pub own: f64,
    /// Seconds of children that have ended.
    pub children: f64,
}

impl Stat {
    /// Reads the line. The name may have blanks and parentheses in it, so that it ends at the last one.
    pub fn parse(line: &str) -> Option<Self> {
        let (head, rest) = line.rsplit_once(')')?;
        let name = head.split_once('(')?.1.to_owned();
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let seconds = |at: usize| Some(fields.get(at)?.parse::<f64>().ok()? / TICKS);
        Some(Self {
            name,
            parent: fields.get(1)?.parse().ok()?,
            own: seconds(11)? + seconds(12)?,
            children: seconds(13)? + seconds(14)?,
        })
    }
}

/// `root` and all that it started, with their pids; of these, only those called `only`, if that is given.
pub fn tree(root: i32, only: Option<&str>) -> io::Result<BTreeMap<i32, Stat>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        // One that has just ended is nobody's.
        let Ok(line) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        all.extend(Stat::parse(&line).map(|stat| (pid, stat)));
    }
    let mut found = descendants(root, &all);
    found.retain(|_, stat| only.is_none_or(|only| stat.name == only));
    Ok(found)
}

fn descendants(root: i32, all: &BTreeMap<i32, Stat>) -> BTreeMap<i32, Stat> {
    let (mut found, mut open) = (BTreeMap::new(), vec![root]);
    while let Some(pid) = open.pop() {
        let Some(stat) = all.get(&pid) else { continue };
        found.insert(pid, stat.clone());
        open.extend(all.iter().filter(|(_, stat)| stat.parent == pid).map(|(pid, _)| *pid));
    }
    found
}

/// What the tree of `root` has used.
pub fn processor(root: i32, only: Option<&str>) -> io::Result<Usage> {
    let mut usage = Usage::default();
    for (pid, stat) in tree(root, only)? {
        usage.processes += 1;
        usage.exact += threads(pid) + stat.children;
        usage.ticks += stat.own + stat.children;
    }
    Ok(usage)
}

/// Seconds that the threads of a process have used, but for those that have ended.
fn threads(pid: i32) -> f64 {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return 0.0 };
    let used = tasks.flatten().filter_map(|task| {
        let line = fs::read_to_string(task.path().join("schedstat")).ok()?;
        line.split_whitespace().next()?.parse::<f64>().ok()
    });
    used.sum::<f64>() / 1e9
}

/// Memory of the tree in bytes: what is each one's alone, and its part of what is shared (PSS).
pub fn memory(root: i32, only: Option<&str>) -> io::Result<f64> {
    let mut bytes = 0.0;
    for pid in tree(root, only)?.into_keys() {
        let Ok(rollup) = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")) else { continue };
        bytes += pss(&rollup).ok_or_else(|| io::Error::other(format!("no Pss of {pid}")))?;
    }
    Ok(bytes)
}

fn pss(rollup: &str) -> Option<f64> {
    let kilobytes = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    Some(kilobytes.trim().strip_suffix(" kB")?.trim().parse::<f64>().ok()? * 1024.0)
}

/// How many descriptors the tree has open.
pub fn descriptors(root: i32) -> io::Result<usize> {
    let open = |pid| fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
    Ok(tree(root, None)?.into_keys().map(open).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(parent: i32) -> Stat {
        Stat { name: "one".into(), parent, own: 0.0, children: 0.0 }
    }

    #[test]
    fn a_name_may_look_like_fields() {
        let line = "42 (a) 1 (b) c) S 7 42 42 0 -1 4194304 1 2 3 4 150 50 30 20 20 0 2 0 9 1 1";
        let stat = Stat::parse(line).unwrap();
        assert_eq!(stat, Stat { name: "a) 1 (b) c".into(), parent: 7, own: 2.0, children: 0.5 });
        assert_eq!(Stat::parse("42 (sh) S 7"), None);
    }

    #[test]
    fn a_tree_is_what_its_root_started() {
        let all = BTreeMap::from([(1, stat(0)), (10, stat(1)), (11, stat(10)), (12, stat(11)), (20, stat(1))]);
        assert_eq!(descendants(10, &all).into_keys().collect::<Vec<_>>(), [10, 11, 12]);
        assert!(descendants(99, &all).is_empty());
    }

    #[test]
    fn the_exact_figure_counts_unless_threads_have_ended() {
        let usage = |exact, ticks| Usage { exact, ticks, processes: 1 };
        assert_eq!(usage(1.005, 1.01).since(&usage(1.0, 1.0)), 1.005 - 1.0);
        assert_eq!(usage(1.0, 3.02).since(&usage(1.0, 1.0)), 3.02 - 1.0 - COARSE);
        assert_eq!(usage(1.0, 1.0).since(&usage(1.5, 1.0)), 0.0);
    }

    #[test]
    fn memory_is_the_proportional_share() {
        assert_eq!(pss("x\nRss:   100 kB\nPss:                 20 kB\nPss_Anon: 3 kB\n"), Some(20.0 * 1024.0));
        assert_eq!(pss("Rss: 1 kB"), None);
    }

    #[test]
    fn our_own_process_has_used_something() {
        let own = std::process::id() as i32;
        assert!(memory(own, None).unwrap() > 0.0);
        assert!(descriptors(own).unwrap() > 0);
        assert_eq!(processor(own, Some("no such program")).unwrap(), Usage::default());
    }
}
