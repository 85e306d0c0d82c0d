//! The command line: what was asked for, who does it, and with which exit code it ends.
//!
//! Exit codes are those of sysexits.h, so that a service manager can tell a mistake in the file (78: no use in starting
//! again) from a fault of ours (70). What was asked for goes to standard output, complaints to standard error. Colours
//! only on a terminal, and never where `NO_COLOR` is set.

mod control;
mod explain;
mod run;

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};

use crate::backend::{self, Announce};
use crate::config::{Config, DEFAULT_PATH, Report, Severity};
use crate::doctor::Fault;

/// The variable that names the file where the command line does not.
const CONFIG_VARIABLE: &str = "GATEPOST_CONFIG";

/// How the program ends, after sysexits.h.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
enum Exit {
    Ok = 0,
    /// EX_USAGE: the command line is wrong.
    Usage = 64,
    /// EX_DATAERR: what was given cannot be used: a network that is none, a line that cannot be read.
    Input = 65,
    /// EX_NOINPUT: a file that was named cannot be read.
    NoInput = 66,
    /// EX_UNAVAILABLE: something that we need is not to be had: an address, a descriptor, a resolver.
    Unavailable = 69,
    /// EX_SOFTWARE: gatepost itself has a fault.
    Software = 70,
    /// EX_IOERR: what there is to say could not be written.
    Io = 74,
    /// EX_NOPERM: this user may not do it.
    Permission = 77,
    /// EX_CONFIG: the file is wrong.
    Config = 78,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Stands at the mail port in front of any MTA: makes strangers wait, turns bots away, hands honest mail on.
#[derive(Parser, Debug)]
#[command(name = "gatepost", version, max_term_width = 100, after_help = AFTER_HELP)]
#[command(propagate_version = false, subcommand_required = true, arg_required_else_help = true)]
struct CommandLine {
    #[command(subcommand)]
    task: Task,
}

const AFTER_HELP: &str = "\
First steps:
  gatepost demo                       see it work: no file, no root, no MTA needed
  gatepost check mx.toml              what is wrong with a file, or what it will do
  gatepost doctor -c mx.toml          whether the MTA, certificates, ports and lists are as it needs them
  gatepost run -c mx.toml             start
  gatepost status                     how the running one is; bans, explain, unban: who is shut out, and why

Environment:
  GATEPOST_CONFIG  the file, where -c does not name one (else /etc/gatepost/gatepost.toml)
  GATEPOST_SOCKET  the socket of the running gatepost, where --socket does not name one (else the file's)
  NO_COLOR         no colours, whatever the terminal

Exit codes: 0 well, 64 wrong usage, 65 what was given cannot be used, 66 a file cannot be read, 69 something needed is not to
be had (no gatepost runs), 70 a fault of gatepost, 74 output failed, 77 no permission, 78 the file is wrong";

const DOCTOR_HELP: &str = "\
Examples:
  gatepost doctor
  gatepost doctor -c /etc/gatepost/gatepost.toml
  gatepost doctor --json | jq '.sections[].findings[] | select(.level == \"problem\")'

Exit codes: 0 no problem (there may be warnings), 69 something needed is not to be had (the MTA, the resolver, a port),
78 something is set up wrongly (an open relay, an MTA that does not expect PROXY headers) or the file is";

#[derive(Subcommand, Debug)]
enum Task {
    /// Open the gates and serve until told to stop
    ///
    /// Reads the file, opens its gates, and serves. SIGTERM closes the gates, lets the sessions that are open end (for
    /// as long as `drain` says), and leaves; a second one leaves at once.
    #[command(after_help = "Example:\n  gatepost run -c /etc/gatepost/gatepost.toml")]
    Run(ConfigFile),

    /// Tell everything that is wrong with a file, or what it will do
    ///
    /// Prints every problem of the file, each with its place, its cause and what would be right, and exits with 78. A
    /// setting that has no effect is a warning, which alone does no harm. If there is no problem, one line for each
    /// gate says what it will do.
    #[command(after_help = "Examples:\n  gatepost check\n  gatepost check deploy/mx.toml\n  gatepost check -c \
                            /etc/gatepost/gatepost.toml && systemctl restart gatepost")]
    Check {
        /// The file
        #[arg(value_name = "FILE", conflicts_with = "path")]
        file: Option<PathBuf>,
        #[command(flatten)]
        config: ConfigFile,
    },

    /// Examine the whole installation: the MTA, relaying, certificates, ports, resolver and lists
    ///
    /// Reads the file as `check` does, and then does what the gates would do: connects to each MTA and tells what it offers,
    /// whether it believes who the client is said to be, and whether it would relay for a stranger; looks at certificates
    /// and ports; and asks the DNS and each list. Each finding comes with a remedy. No mail is sent: every transaction ends
    /// before DATA. A running gatepost is not disturbed; the MTA's log shows some connections from 192.0.2.1 or 2001:db8::1
    /// (addresses of nobody, which are announced to it), and one that waits for a header.
    #[command(after_help = DOCTOR_HELP)]
    Doctor {
        #[command(flatten)]
        config: ConfigFile,
        /// Print one JSON document instead: for monitoring
        #[arg(long)]
        json: bool,
    },

    /// Show gatepost at work on this machine: bots and honest clients against a gate
    ///
    /// Starts a mail server that throws everything away, a gate before it, and clients of many kinds, all on loopback
    /// and ports of their own, and prints what happened to each. Needs no file, no root and no mail server.
    #[command(after_help = "Examples:\n  gatepost demo\n  gatepost demo --once")]
    Demo {
        /// End when each client has had its turn, instead of waiting for more
        #[arg(long)]
        once: bool,
    },

    #[command(flatten)]
    Ask(control::Question),
}

#[derive(Args, Clone, Debug)]
struct ConfigFile {
    /// The file; else the one in GATEPOST_CONFIG, else /etc/gatepost/gatepost.toml
    #[arg(short = 'c', long = "config", value_name = "FILE")]
    path: Option<PathBuf>,
}

impl ConfigFile {
    fn path(self) -> PathBuf {
        let named = || std::env::var_os(CONFIG_VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from);
        self.path.or_else(named).unwrap_or_else(|| PathBuf::from(DEFAULT_PATH))
    }
}

/// Does what the program's arguments ask for.
pub fn main() -> ExitCode {
    main_with(std::env::args_os())
}

fn main_with(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let exit = match CommandLine::try_parse_from(arguments) {
        Ok(CommandLine { task }) => perform(task),
        Err(complaint) => usage(&complaint),
    };
    exit.into()
}

fn perform(task: Task) -> Exit {
    match task {
        Task::Check { file, config } => check(file.unwrap_or_else(|| config.path())),
        Task::Run(config) => run(config.path()),
        Task::Doctor { config, json } => match load(config.path()) {
            Ok((config, _)) => doctor(&config, json),
            Err(exit) => exit,
        },
        Task::Demo { once } => demo(once),
        Task::Ask(question) => control::ask(question),
    }
}

/// `run`: serves until told to stop.
fn run(path: PathBuf) -> Exit {
    let config = match load(path.clone()) {
        Ok((config, _)) => config,
        Err(exit) => return exit,
    };
    match run::run(&path, config) {
        Ok(()) => Exit::Ok,
        Err(error) => {
            complain(&format!("gatepost: {error}"));
            Exit::Unavailable
        }
    }
}

/// `demo`: well only if every visit ended as it should.
fn demo(once: bool) -> Exit {
    let shown = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(crate::demo::CannotShow::from)
        .and_then(|runtime| runtime.block_on(crate::demo::run(once)));
    match shown {
        Ok(true) => Exit::Ok,
        Ok(false) => Exit::Software,
        Err(error) => {
            complain(&format!("gatepost: the demo cannot be shown: {error}"));
            Exit::Unavailable
        }
    }
}

/// `doctor`: what is wrong decides over the exit.
fn doctor(config: &Config, json: bool) -> Exit {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&format!("gatepost: {error}"));
            return Exit::Unavailable;
        }
    };
    let report = runtime.block_on(crate::doctor::examine(config));
    // A look-up that the system does in a thread of its own is not waited for.
    runtime.shutdown_background();
    let text = if json { format!("{}\n", report.json()) } else { report.text(coloured(&io::stdout())) };
    match (io::stdout().write_all(text.as_bytes()), report.fault()) {
        (Err(_), _) => Exit::Io,
        (Ok(()), None) => Exit::Ok,
        (Ok(()), Some(Fault::Away)) => Exit::Unavailable,
        (Ok(()), Some(Fault::Setup)) => Exit::Config,
    }
}

/// `check`: the report, or what the file will do.
fn check(path: PathBuf) -> Exit {
    match load(path.clone()) {
        Ok((config, warnings)) => {
            let verdict =
                format!("{}{}{}: {}\n", config.summary(), capability(&config), path.display(), warnings.tally());
            match io::stdout().write_all(verdict.as_bytes()) {
                Ok(()) => Exit::Ok,
                Err(_) => Exit::Io,
            }
        }
        Err(exit) => exit,
    }
}

/// Whether whoever asks may connect from clients' addresses, where that is asked for: a line, or a complaint. Whether the
/// service may is for its unit to say.
fn capability(config: &Config) -> &'static str {
    let mut backends = config.gates.iter().map(|gate| &*gate.backend);
    match backend::permitted(backends.clone()) {
        Err(error) => {
            complain(&format!("gatepost run, as this user, would not start: {error}"));
            ""
        }
        Ok(()) if backends.any(|backend| backend.announce == Announce::Transparent) => {
            "capability: this user may connect from clients' addresses\n"
        }
        Ok(()) => "",
    }
}

/// Reads the file, and tells whoever asked what is wrong with it.
fn load(path: PathBuf) -> Result<(Config, Report), Exit> {
    match Config::load(&path) {
        Ok((config, warnings)) => {
            if !warnings.is_empty() {
                complain(warnings.render(colours()).trim_end());
            }
            Ok((config, warnings))
        }
        Err(report) => {
            debug_assert!(report.count(Severity::Error) > 0, "a file is refused for a reason");
            complain(&format!("{}{}: {}", report.render(colours()), path.display(), report.tally()));
            Err(Exit::Config)
        }
    }
}

/// Shows clap's complaint, or the help or version that was asked for.
fn usage(complaint: &clap::Error) -> Exit {
    let asked_for = matches!(complaint.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    match (complaint.print(), asked_for) {
        (_, false) => Exit::Usage,
        (Ok(()), true) => Exit::Ok,
        (Err(_), true) => Exit::Io,
    }
}

/// Writes to standard error; where that fails, there is nobody left to tell.
fn complain(text: &str) {
    _ = writeln!(io::stderr(), "{text}");
}

/// Whether complaints are coloured.
fn colours() -> bool {
    coloured(&io::stderr())
}

/// Whether what is written there is coloured (<https://no-color.org>).
fn coloured(to: &impl IsTerminal) -> bool {
    let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    !unwanted && to.is_terminal()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn every_task_has_a_long_help_and_an_example() {
        for task in CommandLine::command().get_subcommands() {
            let name = task.get_name();
            assert!(task.get_long_about().is_some(), "{name}: no long help");
            let after = task.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(after.contains(&format!("gatepost {name}")), "{name}: no example");
        }
    }
}
