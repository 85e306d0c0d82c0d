//! Running a program: no shell, an environment of nothing but a path, a deadline, and a cap on what is listened to.

use std::io::ErrorKind;
use std::pin::pin;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::time::{error::Elapsed, timeout};

/// Where programs are looked for. A service's own path may lack the folders that `nft` is in.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How much of what it complains about is read, and how much of its first line is shown.
const READ: u64 = 4096;
const SHOWN: usize = 200;

/// How long what it said last is waited for once it has ended: a child of its own may keep the pipe open for ever.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Why a program did not do what it was run for.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Failure {
    /// It cannot be started.
    #[error("it cannot be started: {0}")]
    Missing(String),
    /// It may not do it.
    #[error("it may not: {0}")]
    Denied(String),
    /// It was killed at its deadline.
    #[error("it did not end within {0:?} and was killed")]
    Timeout(Duration),
    /// It ended with another exit status than 0.
    #[error("{0}")]
    Refused(String),
}

/// Runs `words`, a program and its arguments, with `input` to read. What it prints is dropped; the first line of what it
/// complains about is in the failure, safe to show.
pub(super) async fn run(words: &[String], input: &[u8], deadline: Duration) -> Result<(), Failure> {
    let Some((program, arguments)) = words.split_first() else {
        return Err(Failure::Missing("it has no name".to_owned()));
    };
    let mut command = Command::new(program);
    command.args(arguments).env_clear().env("PATH", PATH).env("LC_ALL", "C").current_dir("/");
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    // A group of its own, so that its children go with it.
    command.process_group(0).kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| match error.kind() {
        ErrorKind::PermissionDenied => Failure::Missing(format!("{program:?}: permission denied")),
        _ => Failure::Missing(format!("{program:?}: {error}")),
    })?;
    let group = Group(child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)));
    let mut complaint = Vec::new();
    let ended = timeout(deadline, talk(&mut child, input, &mut complaint)).await;
    let status = match ended {
        Ok(Ok(status)) => status,
        Ok(Err(error)) => return Err(Failure::Refused(error.to_string())),
        Err(Elapsed { .. }) => {
            drop(group);
            let _ = timeout(LAST_WORDS, child.wait()).await;
            return Err(Failure::Timeout(deadline));
        }
    };
    // Where it ended by itself, what it left running is its own affair.
    group.let_be();
    if status.success() {
        return Ok(());
    }
    let said = first_line(&complaint);
    let denied = ["ermission denied", "not permitted", "not supported by protocol", "you must be root"];
    if denied.iter().any(|words| said.contains(words)) {
        return Err(Failure::Denied(said));
    }
    Err(Failure::Refused(if said.is_empty() { status.to_string() } else { format!("{status}: {said}") }))
}

async fn talk(child: &mut Child, input: &[u8], complaint: &mut Vec<u8>) -> std::io::Result<std::process::ExitStatus> {
    let (stdin, stderr) = (child.stdin.take(), child.stderr.take());
    let feed = async {
        if let Some(mut stdin) = stdin {
            // One that does not want to hear all of it says why when it ends.
            let _ = stdin.write_all(input).await;
            let _ = stdin.shutdown().await;
        }
    };
    let hear = async {
        if let Some(mut stderr) = stderr {
            let _ = (&mut stderr).take(READ).read_to_end(complaint).await;
            let _ = tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await;
        }
    };
    let mut talk = pin!(async { tokio::join!(feed, hear) });
    tokio::select! {
        status = child.wait() => {
            let _ = timeout(LAST_WORDS, talk).await;
            status
        }
        _ = &mut talk => child.wait().await,
    }
}

/// The processes of a program: killed when it is dropped.
struct Group(Option<Pid>);

impl Group {
    fn let_be(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            // Fails only where they are gone.
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

/// The first line that is not blank, cut, with what is not plain text escaped.
fn first_line(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let line = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default().trim();
    line.chars().take(SHOWN).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    async fn shell(script: &str, input: &[u8], deadline: Duration) -> Result<(), Failure> {
        run(&words(&["/bin/sh", "-c", script]), input, deadline).await
    }

    #[tokio::test]
    async fn it_tells_what_became_of_it() {
        assert_eq!(shell("exit 0", b"", LONG).await, Ok(()));
        // It may read all, or nothing.
        let much = vec![b'x'; 1 << 20];
        assert_eq!(shell("test $(wc -c) = 1048576", &much, LONG).await, Ok(()));
        assert_eq!(shell("exit 0", &much, LONG).await, Ok(()));
        let failure = shell("echo >&2; printf 'no \\033[31mway\\n' >&2; echo more >&2; exit 3", b"", LONG).await;
        assert_eq!(failure, Err(Failure::Refused("exit status: 3: no \\u{1b}[31mway".to_owned())));
        let failure = shell("echo 'x: Operation not permitted' >&2; exit 1", b"", LONG).await;
        assert_eq!(failure, Err(Failure::Denied("x: Operation not permitted".to_owned())));
        for program in [&["/nonexistent/nft"][..], &["no-such-program-at-all"], &["/etc/passwd"], &[]] {
            let failure = run(&words(program), b"", LONG).await;
            assert!(matches!(failure, Err(Failure::Missing(_))), "{program:?}: {failure:?}");
        }
    }

    #[tokio::test]
    async fn it_sees_nothing_of_our_environment() {
        let script = "test \"$(env | grep -vc '^PATH=\\|^LC_ALL=\\|^PWD=\\|^_=\\|^SHLVL=\\|^OLDPWD=')\" = 0";
        assert_eq!(shell(script, b"", LONG).await, Ok(()));
    }

    #[tokio::test]
    async fn at_its_deadline_it_is_killed_with_its_children() {
        let folder = tempfile::tempdir().unwrap();
        let mark = folder.path().join("pid");
        let script = format!("sleep 1000 & echo $! > {}; wait", mark.display());
        let deadline = Duration::from_secs(3);
        assert_eq!(shell(&script, b"", deadline).await, Err(Failure::Timeout(deadline)));
        let pid = std::fs::read_to_string(&mark).unwrap();
        let stat = format!("/proc/{}/stat", pid.trim());
        let is_gone = || std::fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z "));
        for _ in 0..1000 {
            if is_gone() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("process {pid} lives");
    }

    #[tokio::test]
    async fn what_it_leaves_running_is_not_waited_for() {
        assert_eq!(shell("sleep 30 & exit 0", b"", Duration::from_secs(25)).await, Ok(()));
    }

    #[tokio::test]
    async fn a_flood_of_complaints_is_cut() {
        let Err(Failure::Refused(said)) = shell("yes complaint | head -c 1000000 >&2; exit 1", b"", LONG).await else {
            panic!("it fails")
        };
        assert!(said.len() < 300, "{said}");
        let Err(Failure::Refused(said)) = shell("head -c 100000 /dev/zero >&2; exit 1", b"", LONG).await else {
            panic!("it fails")
        };
        assert!(said.len() < 2000 && said.is_ascii(), "{said}");
    }
}
