//! What is asked of a running gatepost: `status`, `bans`, `ban`, `unban`, `allow`, `explain`, `state`.

mod client;
mod state;
mod words;

use std::io::{self, Write};
use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;

use self::client::{Client, Failed, read};
use super::{ConfigFile, Exit, complain};
use crate::config::Config;
use crate::control::answer::{Explanation, Lifted, Ruling, Rulings, Status};
use crate::journal::VisitId;

/// Which gatepost is asked, and how the answer is shown.
#[derive(Args, Debug)]
pub(super) struct Asked {
    /// Its socket; else the one in GATEPOST_SOCKET, or in the file
    #[arg(long, value_name = "PATH", env = "GATEPOST_SOCKET", hide_env = true)]
    socket: Option<PathBuf>,
    #[command(flatten)]
    config: ConfigFile,
    /// Print the API's JSON instead
    #[arg(long)]
    json: bool,
}

/// Which decisions are shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(super) enum What {
    Ban,
    Allow,
}

/// In which order decisions are shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(super) enum Order {
    Newest,
    Network,
}

/// What is asked for.
#[derive(Subcommand, Debug)]
pub(super) enum Question {
    /// Tell how the running gatepost is
    ///
    /// Whether it takes mail and if not, why; its gates and whether their MTAs answer; the sessions that are open; how much it
    /// remembers, and how what it remembers is kept.
    #[command(after_help = "Examples:\n  gatepost status\n  gatepost status --json | jq .gates")]
    Status {
        #[command(flatten)]
        asked: Asked,
    },

    /// List who is banned or allowed at run time, and why
    ///
    /// The latest decision first. `knocks` are the connections that have come since.
    #[command(
        after_help = "Examples:\n  gatepost bans\n  gatepost bans --what allow\n  gatepost bans --json --limit 1000"
    )]
    Bans {
        /// Only bans, or only allowances
        #[arg(long)]
        what: Option<What>,
        /// In which order
        #[arg(long, default_value = "newest")]
        order: Order,
        /// How many at the most, up to 1000
        #[arg(long, value_name = "N", default_value_t = 100)]
        limit: usize,
        /// How many to pass over
        #[arg(long, value_name = "N", default_value_t = 0)]
        offset: usize,
        #[command(flatten)]
        asked: Asked,
    },

    /// Ban a network, from its next connection on
    ///
    /// Sessions of it that are open end. An IPv6 address stands for its /64, as clients are counted. Networks that are allowed
    /// in the file, load balancers and MTAs of ours are never banned.
    #[command(
        after_help = "Examples:\n  gatepost ban 192.0.2.7\n  gatepost ban 192.0.2.0/24 --for 7d --note 'guesses \
                            passwords'\n  gatepost ban 2001:db8:7::/48 --for ever"
    )]
    Ban {
        #[command(flatten)]
        wish: Wish,
        /// For how long: 30m, 12h, 7d, or `ever`
        #[arg(long = "for", value_name = "SPAN", default_value = "1d")]
        span: String,
        #[command(flatten)]
        asked: Asked,
    },

    /// Lift the bans and allowances of a network, and of all within it
    ///
    /// What was counted and led to them is forgotten. Where a wider network is banned still, the answer says so.
    #[command(after_help = "Examples:\n  gatepost unban 192.0.2.7\n  gatepost unban 0.0.0.0/0")]
    Unban {
        /// The network, or an address
        #[arg(value_name = "NETWORK")]
        network: String,
        #[command(flatten)]
        asked: Asked,
    },

    /// Let a network in, whatever is known of it, from its next connection on
    ///
    /// For a while, and at once: what is to hold for good belongs in `access.rules`.
    #[command(
        after_help = "Examples:\n  gatepost allow 192.0.2.7\n  gatepost allow 192.0.2.0/24 --for 30d --note 'new office'"
    )]
    Allow {
        #[command(flatten)]
        wish: Wish,
        /// For how long: 30m, 12h, 7d, or `ever`
        #[arg(long = "for", value_name = "SPAN", default_value = "7d")]
        span: String,
        #[command(flatten)]
        asked: Asked,
    },

    /// Tell what is known of a client and what would happen to it, or what became of a visit
    ///
    /// Of an address: the ban or allowance that counts, the tests that it has passed and until when, what is counted of it,
    /// its last visits; and, for each gate of the file, the access list and what the DNS lists say of it now. Without a
    /// running gatepost, the latter alone. Of a visit's id, which every refusal carries: its record in the journal, in words.
    #[command(after_help = "Examples:\n  gatepost explain 192.0.2.7\n  gatepost explain 2001:db8::25 -c \
                            deploy/mx.toml\n  gatepost explain 7K2MQ-9XV4T")]
    Explain {
        /// The client's IPv4 or IPv6 address, or the id of a visit
        #[arg(value_name = "ADDRESS|VISIT-ID", value_parser = subject)]
        subject: Subject,
        #[command(flatten)]
        asked: Asked,
    },

    /// Write all that is remembered as lines of JSON, or bring such lines in
    ///
    /// Standings, counters and decisions, for backups, for another host, and to look at; what was said in AUTH is not among
    /// it. What is brought in is merged: the longer pass wins, and the later decision.
    #[command(after_help = "Examples:\n  gatepost state export > state.jsonl\n  gatepost state import \
                            state.jsonl\n  postmap -s btree:/var/lib/postfix/postscreen_cache | gatepost state import \
                            --postscreen -")]
    State {
        #[command(subcommand)]
        task: state::Task,
    },
}

/// What an operator decides.
#[derive(Args, Debug)]
pub(super) struct Wish {
    /// The network, or an address
    #[arg(value_name = "NETWORK")]
    network: String,
    /// Why, for whoever asks later
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
}

/// Of what an explanation is asked.
#[derive(Clone, Copy, Debug)]
pub(super) enum Subject {
    Address(IpAddr),
    Visit(VisitId),
}

fn subject(text: &str) -> Result<Subject, String> {
    let visit = || text.parse().map(Subject::Visit);
    text.parse().map(Subject::Address).or_else(|_| visit()).map_err(|_| {
        "write an address, such as 192.0.2.7 or 2001:db8::25, or the id of a visit, such as 7K2MQ-9XV4T".to_owned()
    })
}

impl Asked {
    /// Whom to ask. The file need not be there.
    fn client(&self) -> Result<Client, String> {
        if let Some(path) = self.socket.clone().filter(|path| !path.as_os_str().is_empty()) {
            return Ok(Client::new(path));
        }
        let path = Config::socket(&self.config.clone().path()).to_ask();
        path.map(Client::new).ok_or_else(|| {
            "the file has no socket (socket = \"off\" in [control]); use the HTTP API, or give `socket` a path"
                .to_owned()
        })
    }
}

/// Asks, and shows the answer.
pub(super) fn ask(question: Question) -> Exit {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&format!("gatepost: {error}"));
            return Exit::Unavailable;
        }
    };
    let exit = runtime.block_on(answer(question));
    runtime.shutdown_background();
    exit
}

/// Puts an answer in words.
type InWords = fn(&[u8]) -> Result<String, Failed>;

async fn answer(question: Question) -> Exit {
    let (path, wish, asked, words): (String, _, _, InWords) = match question {
        Question::Status { asked } => ("/status".into(), None, asked, |text| Ok(words::status(&read::<Status>(text)?))),
        Question::Bans { what, order, limit, offset, asked } => {
            let order = if order == Order::Newest { "newest" } else { "network" };
            let what = match what {
                Some(What::Ban) => "&what=ban",
                Some(What::Allow) => "&what=allow",
                None => "",
            };
            let path = format!("/bans?order={order}&limit={limit}&offset={offset}{what}");
            (path, None, asked, |text| Ok(words::rulings(&read::<Rulings>(text)?)))
        }
        Question::Ban { wish, span, asked } => ("/bans".into(), Some(wish.of(&span)), asked, ruled),
        Question::Allow { wish, span, asked } => ("/allow".into(), Some(wish.of(&span)), asked, ruled),
        Question::Unban { network, asked } => {
            let wish = json!({"network": network});
            ("/unban".into(), Some(wish), asked, |text| Ok(words::lifted(&read::<Lifted>(text)?)))
        }
        Question::Explain { subject: Subject::Visit(id), asked } => {
            (format!("/explain/{id}"), None, asked, |text| Ok(words::visit(&read(text)?)))
        }
        Question::Explain { subject: Subject::Address(address), asked } => return explain(address, asked).await,
        Question::State { task } => return state::perform(task).await,
    };
    let client = match asked.client() {
        Ok(client) => client,
        Err(error) => return fail(&error, Exit::Unavailable),
    };
    let told = match wish {
        None => client.get(&path).await,
        Some(wish) => client.post(&path, &wish).await,
    };
    match told.and_then(|text| if asked.json { Ok(as_it_is(&text)) } else { words(&text) }) {
        Ok(text) => print(&text),
        Err(error) => failed(&error),
    }
}

fn ruled(text: &[u8]) -> Result<String, Failed> {
    Ok(words::ruled(&read::<Ruling>(text)?))
}

impl Wish {
    fn of(&self, span: &str) -> serde_json::Value {
        json!({"network": self.network, "for": span, "note": self.note})
    }
}

/// What the running gatepost knows, and then what the lists say now.
async fn explain(address: IpAddr, asked: Asked) -> Exit {
    let told = match asked.client() {
        Ok(client) => {
            client.get(&format!("/explain/{address}")).await.map_err(|error| (error.to_string(), exit(&error)))
        }
        Err(error) => Err((error, Exit::Unavailable)),
    };
    if asked.json {
        return match told {
            Ok(text) => print(&as_it_is(&text)),
            Err((error, exit)) => fail(&error, exit),
        };
    }
    let live = match &told {
        Ok(text) => match read::<Explanation>(text) {
            Ok(explanation) => words::explanation(&explanation),
            Err(error) => return failed(&error),
        },
        Err((error, _)) => format!("nothing of what is remembered: {error}\n\n"),
    };
    // Whoever may use the socket need not be able to read the file: the rest is told without it.
    let config = match super::load(asked.config.path()) {
        Ok((config, _)) => config,
        Err(_) if told.is_ok() => return print(&live),
        Err(exit) => return exit,
    };
    match super::explain::explain(address, &config).await {
        Ok(text) => print(&format!("{live}{text}")),
        Err(error) => fail(&error.to_string(), Exit::Unavailable),
    }
}

fn as_it_is(text: &[u8]) -> String {
    String::from_utf8_lossy(text).trim_end().to_owned() + "\n"
}

fn print(text: &str) -> Exit {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => Exit::Ok,
        Err(_) => Exit::Io,
    }
}

fn failed(error: &Failed) -> Exit {
    fail(&error.to_string(), exit(error))
}

fn fail(error: &str, exit: Exit) -> Exit {
    complain(&format!("gatepost: {error}"));
    exit
}

fn exit(error: &Failed) -> Exit {
    match error {
        Failed::Away(..) | Failed::Broken(_) => Exit::Unavailable,
        Failed::Barred(_) => Exit::Permission,
        Failed::Refused(status, _) => match status.as_u16() {
            401 | 403 => Exit::Permission,
            404 => Exit::Unavailable,
            _ => Exit::Input,
        },
    }
}
