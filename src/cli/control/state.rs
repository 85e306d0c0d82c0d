//! `state export` and `state import`.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};

use clap::Subcommand;
use http_body_util::BodyExt;
use hyper::Method;
use hyper::body::{Body, Bytes, Frame};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::client::{Client, Failed, LONG, read, whole};
use super::{Asked, Exit, as_it_is, fail, failed, print};
use crate::clock::Clock;
use crate::config::Config;
use crate::control::answer::Imported;
use crate::control::{kept, postscreen, state};
use crate::ledger::Kind;
use crate::policy::guard::Rules;
use crate::policy::record::Record;

/// The longest line of a postscreen cache.
const LONGEST: u64 = 4096;

/// How many bytes are sent at once.
const CHUNK: usize = 64 << 10;

/// How many lines that cannot be read are told one by one.
const PROBLEMS: u64 = 10;

#[derive(Subcommand, Debug)]
pub(in crate::cli) enum Task {
    /// Write all that is remembered to standard output, a line of JSON for each entry
    ///
    /// Asks the running gatepost, which goes on meanwhile. Where none runs, the ledger's file is read.
    #[command(after_help = "Example:\n  gatepost state export > state.jsonl")]
    Export {
        #[command(flatten)]
        asked: Asked,
    },

    /// Bring in what was exported, or what postscreen has remembered
    ///
    /// Merges it with what the running gatepost remembers: the longer pass wins, the later decision, and of counters those that
    /// hold longer. What has expired is left out. Where no gatepost runs, it goes into the ledger's file.
    #[command(after_help = "Examples:\n  gatepost state import state.jsonl\n  postmap -s \
                            btree:/var/lib/postfix/postscreen_cache | gatepost state import --postscreen -")]
    Import {
        /// The file; `-` for standard input
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// The file is a cache of Postfix's postscreen, as `postmap -s` writes it
        #[arg(long)]
        postscreen: bool,
        #[command(flatten)]
        asked: Asked,
    },
}

pub(super) async fn perform(task: Task) -> Exit {
    let asked = match &task {
        Task::Export { asked } | Task::Import { asked, .. } => asked,
    };
    let client = match asked.client() {
        Ok(client) => client,
        Err(error) => return fail(&error, Exit::Unavailable),
    };
    let offline = match offline(&client, asked).await {
        Ok(offline) => offline,
        Err(exit) => return exit,
    };
    match (task, offline) {
        (Task::Export { .. }, Some((path, config))) => export_file(&path, &config),
        (Task::Export { .. }, None) => match timeout(LONG, export(&client)).await {
            Ok(exit) => exit,
            Err(_) => fail(&format!("not all of it came within {LONG:?}"), Exit::Unavailable),
        },
        (Task::Import { file, postscreen, asked }, offline) => {
            let source = match Source::open(file, postscreen) {
                Ok(source) => source,
                Err(exit) => return exit,
            };
            match offline {
                Some((path, config)) => import_file(source, path, config, asked.json).await,
                None => import(&client, source, asked.json).await,
            }
        }
    }
}

/// The file of a gatepost that does not run, if there is one.
async fn offline(client: &Client, asked: &Asked) -> Result<Option<(PathBuf, Config)>, Exit> {
    if !client.is_away().await {
        return Ok(None);
    }
    let path = asked.config.clone().path();
    if !path.exists() {
        // Then there is nothing but the socket, and why that does not answer is told.
        return Ok(None);
    }
    let (config, _) = super::super::load(path)?;
    let kept = kept::place(&config.kept);
    if let Some(path) = &kept {
        super::complain(&format!("gatepost: none runs at its socket; this is about its file, {}", path.display()));
    }
    Ok(kept.map(|path| (path, config)))
}

fn export_file(path: &Path, config: &Config) -> Exit {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let mut written = Ok(());
    let told = kept::export(path, &config.rulings.rules, &Clock::system(), |line| {
        if written.is_ok() {
            written = writeln!(out, "{line}");
        }
    });
    match (told, written.and_then(|()| out.flush())) {
        (Err(error), _) => fail(&error.to_string(), Exit::Unavailable),
        (Ok(_), Err(_)) => Exit::Io,
        (Ok(_), Ok(())) => Exit::Ok,
    }
}

async fn import_file(source: Source, path: PathBuf, config: Config, json: bool) -> Exit {
    let Source { mut lines, reading } = source;
    let work = move || kept::import(&path, config.ledger, &Clock::system(), || lines.blocking_recv());
    let imported = match tokio::task::spawn_blocking(work).await {
        Ok(Ok(imported)) => imported,
        Ok(Err(error)) => return fail(&error.to_string(), Exit::Unavailable),
        Err(error) => return fail(&error.to_string(), Exit::Software),
    };
    let text = serde_json::to_vec(&imported).unwrap_or_default();
    match reading.await.unwrap_or(Ok(0)) {
        Ok(unread) => tell(&imported, &text, unread, json),
        Err(problem) => fail(&problem, Exit::Input),
    }
}

async fn export(client: &Client) -> Exit {
    let mut body = match client.send(Method::GET, "/state", "", http_body_util::Empty::<Bytes>::new()).await {
        Ok(response) => response.into_body(),
        Err(error) => return failed(&error),
    };
    let mut out = io::stdout().lock();
    while let Some(frame) = body.frame().await {
        match frame.map(Frame::into_data) {
            Ok(Ok(bytes)) => {
                if out.write_all(&bytes).is_err() {
                    return Exit::Io;
                }
            }
            Ok(Err(_)) => {}
            Err(error) => return failed(&Failed::Broken(format!("it broke off: {error}"))),
        }
    }
    if out.flush().is_ok() { Exit::Ok } else { Exit::Io }
}

/// Lines that are read by a thread of their own, as they are wanted.
struct Lines(mpsc::Receiver<Result<Bytes, io::Error>>);

impl Body for Lines {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.0.poll_recv(cx).map(|bytes| bytes.map(|bytes| bytes.map(Frame::data)))
    }
}

/// Lines that are to be brought in, and how many of what was read were none.
struct Source {
    lines: mpsc::Receiver<Result<Bytes, io::Error>>,
    reading: tokio::task::JoinHandle<Result<u64, String>>,
}

impl Source {
    fn open(file: PathBuf, postscreen: bool) -> Result<Self, Exit> {
        let source: Box<dyn Read + Send> = if file == Path::new("-") {
            Box::new(io::stdin())
        } else {
            let cannot = |error| fail(&format!("cannot read {}: {error}", file.display()), Exit::NoInput);
            Box::new(File::open(&file).map_err(cannot)?)
        };
        let (sender, lines) = mpsc::channel(4);
        let reading = tokio::task::spawn_blocking(move || {
            if postscreen { translate(BufReader::new(source), &sender) } else { pass_on(source, &sender) }
        });
        Ok(Self { lines, reading })
    }
}

async fn import(client: &Client, source: Source, json: bool) -> Exit {
    let Source { lines, reading } = source;
    let sent = async { whole(client.send(Method::POST, "/state", "application/jsonl", Lines(lines)).await?).await };
    let told = match timeout(LONG, sent).await {
        Ok(told) => told,
        Err(_) => return fail(&format!("not all of it was taken within {LONG:?}"), Exit::Unavailable),
    };
    let text = match told {
        Ok(text) => text,
        // Nobody takes what is still read; it may never end.
        Err(error) if !reading.is_finished() => return failed(&error),
        Err(error) => {
            // What was read wrongly says more than a request that broke off.
            let read = reading.await.unwrap_or(Ok(0));
            return read.map_or_else(|problem| fail(&problem, Exit::Input), |_| failed(&error));
        }
    };
    let unread = match reading.await.unwrap_or(Ok(0)) {
        Ok(unread) => unread,
        Err(problem) => return fail(&problem, Exit::Input),
    };
    match read::<Imported>(&text) {
        Ok(imported) => tell(&imported, &text, unread, json),
        Err(error) => failed(&error),
    }
}

fn tell(imported: &Imported, text: &[u8], unread: u64, json: bool) -> Exit {
    let shown = if json { as_it_is(text) } else { words(imported) };
    match print(&shown) {
        Exit::Ok if imported.refused > 0 || unread > 0 => Exit::Input,
        exit => exit,
    }
}

fn words(imported: &Imported) -> String {
    let Imported { read, taken, expired, refused, problems } = imported;
    let mut out = format!("{read} entries: {taken} taken in, {expired} had expired, {refused} could not be read\n");
    for problem in problems {
        out.push_str(&format!("  {problem}\n"));
    }
    out
}

type Sender = mpsc::Sender<Result<Bytes, io::Error>>;

/// Sends what is read as it is.
fn pass_on(mut source: impl Read, sender: &Sender) -> Result<u64, String> {
    loop {
        let mut chunk = Vec::with_capacity(CHUNK);
        match source.by_ref().take(CHUNK as u64).read_to_end(&mut chunk) {
            Ok(0) => return Ok(0),
            Ok(_) if sender.blocking_send(Ok(chunk.into())).is_err() => return Ok(0),
            Ok(_) => {}
            Err(error) => {
                let said = format!("cannot read it: {error}");
                let _ = sender.blocking_send(Err(error));
                return Err(said);
            }
        }
    }
}

/// Sends the clients of a postscreen cache; how many lines were no such thing.
fn translate(mut source: impl BufRead, sender: &Sender) -> Result<u64, String> {
    let (mut number, mut unread, mut chunk) = (0u64, 0, Vec::new());
    let (now, rules) = (Clock::system().now(), Rules::default());
    loop {
        let mut line = Vec::new();
        number += 1;
        let length = source.by_ref().take(LONGEST).read_until(b'\n', &mut line);
        if length.map_err(|error| format!("cannot read it: {error}"))? == 0 {
            break;
        }
        match postscreen::read(&String::from_utf8_lossy(&line)) {
            Ok(Some((client, standing))) => {
                chunk
                    .extend(state::line_of(Kind::Standing, &client.word(), &standing.line(), &rules, now).into_bytes());
                chunk.push(b'\n');
            }
            Ok(None) => {}
            Err(problem) => {
                unread += 1;
                if unread <= PROBLEMS {
                    super::complain(&format!("line {number}: {problem}"));
                }
            }
        }
        if chunk.len() >= CHUNK && sender.blocking_send(Ok(std::mem::take(&mut chunk).into())).is_err() {
            return Ok(unread);
        }
    }
    let _ = sender.blocking_send(Ok(chunk.into()));
    if unread > PROBLEMS {
        super::complain(&format!("{unread} lines in all are no records of postscreen's"));
    }
    Ok(unread)
}
