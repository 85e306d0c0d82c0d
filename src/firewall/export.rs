//! The file of banned networks, for other firewalls: one a line, in order, each with its end and its reason behind a `#`.
//!
//! It is replaced as a whole, so that a reader sees the one before or the one after. At a stop it stays: each line says
//! until when it holds.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ipnet::IpNet;
use parking_lot::Mutex;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, timeout};

use super::counts::{Kind, Seldom};
use super::nets::NetMap;
use super::{Ban, Shared};
use crate::time::Timestamp;

/// How often it is written at most.
const PACE: Duration = Duration::from_secs(2);

/// How long the last writing may take.
const LAST: Duration = Duration::from_secs(3);

/// A file with one network a line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BanFile {
    /// Where it is. Its folder has to be there, and gatepost's to write.
    pub path: PathBuf,
}

/// Writes the file when something changed, and not too often.
pub(super) struct Export {
    path: PathBuf,
    shared: Arc<Shared>,
    /// What is written is not what is wanted.
    stale: Arc<AtomicBool>,
    next: Instant,
    writing: Option<JoinHandle<()>>,
    complaint: Arc<Mutex<Seldom>>,
}

impl Export {
    pub(super) fn new(file: BanFile, shared: Arc<Shared>) -> Self {
        Self {
            path: file.path,
            shared,
            stale: Arc::new(AtomicBool::new(true)),
            next: Instant::now(),
            writing: None,
            complaint: Arc::default(),
        }
    }

    pub(super) fn changed(&self) {
        self.stale.store(true, Ordering::Relaxed);
    }

    /// When it wants to be written.
    pub(super) fn due(&self) -> Option<Instant> {
        let writing = self.writing.as_ref().is_some_and(|writing| !writing.is_finished());
        // A writing that lasts is looked at now and then.
        let next = if writing { Instant::now() + PACE } else { self.next };
        (writing || self.stale.load(Ordering::Relaxed)).then_some(next)
    }

    /// Writes it if it is time to, without waiting for it.
    pub(super) fn update(&mut self, wanted: &NetMap<Ban>) {
        let now = Instant::now();
        if now < self.next || self.writing.as_ref().is_some_and(|writing| !writing.is_finished()) {
            return;
        }
        if self.stale.swap(false, Ordering::Relaxed) {
            self.next = now + PACE;
            self.begin(wanted);
        }
    }

    /// Writes it a last time, and waits for that.
    pub(super) async fn finish(mut self, wanted: &NetMap<Ban>) {
        let ended = timeout(LAST, async {
            if let Some(writing) = self.writing.take() {
                let _ = writing.await;
            }
            if self.stale.swap(false, Ordering::Relaxed) {
                self.begin(wanted);
            }
            if let Some(writing) = self.writing.take() {
                let _ = writing.await;
            }
        });
        let _ = ended.await;
    }

    fn begin(&mut self, wanted: &NetMap<Ban>) {
        let text = text(wanted);
        let (path, shared) = (self.path.clone(), Arc::clone(&self.shared));
        let (stale, complaint) = (Arc::clone(&self.stale), Arc::clone(&self.complaint));
        self.writing = Some(spawn_blocking(move || {
            let Err(reason) = replace(&path, &text) else { return };
            stale.store(true, Ordering::Relaxed);
            shared.counts.failed(Kind::File);
            if complaint.lock().may().is_some() {
                tracing::warn!(
                    %reason, path = %path.display(),
                    "the file of banned networks cannot be written; see to its folder and its permissions, it is tried again"
                );
            }
        }));
    }
}

/// All of the file.
fn text(wanted: &NetMap<Ban>) -> String {
    let mut text = String::from("# Networks that gatepost bans; it replaces this file when they change.\n");
    for (net, ban) in wanted.iter() {
        text.push_str(&line(net, ban.until, ban.reason));
    }
    text
}

fn line(net: IpNet, until: Timestamp, reason: &str) -> String {
    let moment = i64::try_from(until.seconds()).ok().and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    let net = if net.prefix_len() == net.max_prefix_len() { net.addr().to_string() } else { net.to_string() };
    match moment {
        Some(moment) => format!("{net} # until {moment} reason {reason}\n"),
        None => format!("{net} # until further notice reason {reason}\n"),
    }
}

/// Puts `text` in the place of the file: by another name first, so that there is no moment with half of it.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let mut new = std::ffi::OsString::from(".");
    new.push(name);
    new.push(".new");
    let new = path.with_file_name(new);
    // One that a killed process left, or somebody's link: it is not written through.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(&new)?;
    // For others to read, whatever the service's umask.
    file.set_permissions(Permissions::from_mode(0o644))?;
    let mut out = BufWriter::new(file);
    out.write_all(text.as_bytes())?;
    out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_in_order_and_say_until_when() {
        let ban = |millis, reason| Ban { until: Timestamp::from_millis(millis), reason, old: false };
        let wanted: NetMap<Ban> = [
            ("2001:db8::/64", ban(1_764_362_696_900, "auth-failures")),
            ("198.51.100.0/24", ban(u64::MAX, "operator")),
            ("192.0.2.7/32", ban(1_764_362_696_000, "pregreet")),
        ]
        .into_iter()
        .map(|(net, ban)| (net.parse().unwrap(), ban))
        .collect();
        assert_eq!(
            text(&wanted),
            "# Networks that gatepost bans; it replaces this file when they change.\n\
             192.0.2.7 # until 2025-11-28T20:44:56Z reason pregreet\n\
             198.51.100.0/24 # until further notice reason operator\n\
             2001:db8::/64 # until 2025-11-28T20:44:56Z reason auth-failures\n"
        );
        // Our own reader of lists takes it.
        assert_eq!(crate::policy::network::parse_lines(&text(&wanted)).unwrap().len(), 3);
    }

    #[test]
    fn it_is_replaced_as_a_whole_and_may_be_read_by_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("banned");
        let elsewhere = folder.path().join("elsewhere");
        fs::write(&elsewhere, "mine").unwrap();
        std::os::unix::fs::symlink(&elsewhere, folder.path().join(".banned.new")).unwrap();
        for text in ["one\n", "two\n"] {
            replace(&path, text).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
        }
        assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "mine");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
        assert!(replace(&folder.path().join("none/banned"), "").is_err());
    }
}
