//! One program under test: started in the foreground, its output kept, ended by its own pid.
//!
//! Each leads a process group, which ends with it. So that it also ends when the test program is killed and nothing is
//! dropped, a shell beside it waits for the end of a pipe that the test program holds open. (The kernel's parent-death
//! signal would be simpler, but it is lost when a program changes its user, as MTAs do.)

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, kill_process_group, setrlimit};
use tempfile::TempDir;

use super::wait;

/// How long a program may take to leave after SIGTERM before it is killed.
const LEAVE: Duration = Duration::from_secs(10);

/// Becomes the program in its arguments and leaves behind a watcher for standard input, which is the test program's pipe.
/// The watcher is nobody's child, so the program never sees it end.
const WATCHED: &str = r#"
exec 3<&0 </dev/null
({ read -r _ <&3; kill -TERM $$; } >/dev/null 2>&1 &)
exec 3<&-
exec "$@"
"#;

/// A running program. Dropping it ends it; a panicking test prints what it had to say.
pub struct Process {
    name: &'static str,
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Process {
    /// Starts the program of `command`, with its arguments and added variables, and its output going to files in `dir`.
    pub fn start(name: &'static str, command: &Command, dir: &Path) -> Self {
        let stdout = dir.join(format!("{name}.stdout"));
        let stderr = dir.join(format!("{name}.stderr"));
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", WATCHED, "sh"]).arg(command.get_program()).args(command.get_args());
        shell.envs(command.get_envs().filter_map(|(variable, value)| Some((variable, value?))));
        let child = shell
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(File::create(&stdout).expect("a file for its output"))
            .stderr(File::create(&stderr).expect("a file for its complaints"))
            .spawn()
            .unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        Self { name, child, stdout, stderr }
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("our own child can be waited for")
    }

    /// The process id, for signals and `/proc`.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// The same as a number, for `/proc`.
    pub fn number(&self) -> i32 {
        self.pid().as_raw_nonzero().get()
    }

    /// Sends a signal to the program and all that it started, if they have not left its process group.
    pub fn signal_all(&self, signal: Signal) {
        kill_process_group(self.pid(), signal).unwrap_or_else(|error| panic!("{} takes no signal: {error}", self.name));
    }

    /// Sends a signal to the program itself.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap_or_else(|error| panic!("{} takes no signal: {error}", self.name));
    }

    /// Ends the program and all that it started, at once and without a chance to tidy up.
    pub fn kill_all(&mut self) {
        // Fails only if there is nobody left, which is what is wanted.
        let _ = kill_process_group(self.pid(), Signal::KILL);
        wait::until("a killed program to be gone", || self.ended());
    }

    /// Everything it wrote to standard output so far.
    pub fn stdout(&self) -> String {
        lossy(&self.stdout)
    }

    /// Everything it wrote to standard error so far.
    pub fn stderr(&self) -> String {
        lossy(&self.stderr)
    }

    /// Asks it to leave by SIGTERM and says how it left; panics if it stays longer than `limit`.
    #[track_caller]
    pub fn stop(&mut self, limit: Duration) -> ExitStatus {
        if self.ended().is_none() {
            self.signal(Signal::TERM);
        }
        wait::within(limit, || self.ended())
            .unwrap_or_else(|| panic!("{} is still there {limit:?} after SIGTERM\n{}", self.name, self.stderr()))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- {} said ---\n{}{}", self.name, self.stdout(), self.stderr());
        }
        // Failures are of no interest here: the process is gone, which is what is wanted.
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = kill_process(self.pid(), Signal::TERM);
            if wait::within(LEAVE, || self.child.try_wait().ok().flatten()).is_none() {
                let _ = self.child.kill();
                let _ = self.child.wait();
            }
        }
        // The watcher, and whatever the program left behind.
        let _ = kill_process_group(self.pid(), Signal::KILL);
    }
}

/// As many descriptors as are permitted to this process and those that it starts; how many those are.
pub fn raise_descriptor_limit() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let limit = if raised.is_ok() { maximum } else { current };
    limit.unwrap_or(u64::MAX)
}

/// A log file as text; empty while the program has not made it.
pub fn lossy(file: &Path) -> String {
    fs::read(file).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

/// A directory that a program may enter after it gave up root.
pub fn public_dir() -> TempDir {
    let dir = tempfile::Builder::new().prefix("gatepost-").tempdir().expect("a directory for a host");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("our own directory");
    dir
}

/// The same, in memory if that can be: for a host that waits for its disk with every message. Not for large ones.
pub fn public_dir_in_memory() -> TempDir {
    let made = tempfile::Builder::new().prefix("gatepost-").tempdir_in("/dev/shm");
    let Ok(dir) = made else { return public_dir() };
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("our own directory");
    dir
}
