//! `[bans]`: whom bans are told besides, and which lists come from outside.

use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::DeValue;

use super::auth::BanRules;
use super::inspection::{Inspection, Wrong};
use super::table::Table;
use super::values::{boolean, text, whole};
use crate::firewall::{self, BanFile, Hook, Nftables};
use crate::lists;
use crate::session;

/// The ports that mail is known by, whoever listens at them.
const MAIL: [u16; 3] = [25, 465, 587];

/// What `[bans]` says.
#[derive(Debug)]
pub(super) struct BansEntry {
    /// What it says of bans themselves.
    pub(super) rules: BanRules,
    import: Option<Spanned<Vec<Spanned<PathBuf>>>>,
    export: Option<Spanned<PathBuf>>,
    command: Option<Spanned<Vec<Spanned<String>>>>,
    nftables: NftablesEntry,
}

/// What `[bans.nftables]` says.
#[derive(Debug)]
struct NftablesEntry {
    enabled: Option<Spanned<bool>>,
    table: Option<Spanned<String>>,
    ports: Option<Spanned<Vec<Spanned<u16>>>>,
    priority: Option<Spanned<i32>>,
    span: Option<std::ops::Range<usize>>,
}

impl BansEntry {
    /// Reads `[bans]`. List files are looked for below `folder`.
    pub(super) fn read(table: &mut Table<'_>, folder: &Path) -> Self {
        let import = table.list("import", |value| text(value).map(|path| folder.join(path)));
        let export = table.value("export", full_path);
        let command = table.list("command", |value| text(value).map(str::to_owned));
        let nftables = table.section("nftables", |table| NftablesEntry {
            enabled: table.value("enabled", boolean),
            table: table.value("table", table_name),
            ports: table.list("ports", port),
            priority: table.value("priority", priority),
            span: table.span(),
        });
        Self { rules: BanRules::read(table), import, export, command, nftables }
    }

    /// Whom bans are told. Reports what cannot be, and what has no effect.
    pub(super) fn firewall(&self, gates: &[session::Settings], inspection: &Inspection) -> firewall::Settings {
        firewall::Settings {
            nftables: self.nftables.nftables(gates, inspection),
            file: self.export.as_ref().map(|path| BanFile { path: path.get_ref().clone() }),
            command: self.hook(inspection),
        }
    }

    /// The lists from outside. What is wrong with their files is a warning: they come and go, and the gate goes on.
    pub(super) fn lists(&self, inspection: &Inspection) -> lists::Settings {
        let Some(import) = &self.import else { return lists::Settings::default() };
        if import.get_ref().len() > lists::MOST {
            let cause = format!("{} lists are too many", import.get_ref().len());
            let remedy = format!("name {} at most; several lists can go into one file", lists::MOST);
            inspection.error(import.span(), Wrong::new(cause, remedy));
        }
        let mut files: Vec<PathBuf> = Vec::new();
        for path in import.get_ref() {
            if files.contains(path.get_ref()) {
                let cause = format!("{} is named twice", path.get_ref().display());
                inspection.warning(path.span(), Wrong::new(cause, "take it out once"));
                continue;
            }
            files.push(path.get_ref().clone());
            if let (networks, Some(trouble)) = lists::read(path.get_ref()) {
                let cause = format!("{} cannot be used as it is: {trouble}", path.get_ref().display());
                let remedy = match networks.len() {
                    0 => {
                        "create or mend the file, or correct the path (it is relative to this file's folder)".to_owned()
                    }
                    n => format!("mend the file; the other {n} networks of it are in force from the start"),
                };
                inspection.warning(path.span(), Wrong::new(cause, remedy));
            }
        }
        lists::Settings { files, ..lists::Settings::default() }
    }

    fn hook(&self, inspection: &Inspection) -> Option<Hook> {
        let command = self.command.as_ref()?;
        let words: Vec<String> = command.get_ref().iter().map(|word| word.get_ref().clone()).collect();
        let wrong = match words.first() {
            Some(program) if !program.starts_with('/') => {
                let cause = format!("{program:?} is not a full path, and no shell looks for it");
                Wrong::new(cause, "write the program's full path: command = [\"/usr/local/bin/on-ban\"]")
            }
            Some(program) if program.contains(char::is_whitespace) => {
                let cause = format!("{program:?} has a blank in it, and no shell takes it apart");
                Wrong::new(cause, "write each argument by itself: command = [\"/usr/local/bin/on-ban\", \"--quiet\"]")
            }
            Some(_) => return Some(Hook { words }),
            None => Wrong::new("`bans.command` names no program", "name one, or take it out"),
        };
        inspection.error(command.span(), wrong);
        None
    }
}

impl NftablesEntry {
    fn nftables(&self, gates: &[session::Settings], inspection: &Inspection) -> Option<Nftables> {
        let Some(enabled) = &self.enabled else {
            if let Some(span) = &self.span {
                let wrong = Wrong::new("[bans.nftables] has no effect", "add enabled = true, or take it out");
                inspection.warning(span.clone(), wrong);
            }
            return None;
        };
        if !enabled.get_ref() {
            return None;
        }
        // Clients of a load balancer do not send the packets that come here.
        let direct = |gate: &&session::Settings| gate.proxies.is_none();
        let ports_of = |gates: Vec<&session::Settings>| {
            let mut ports: Vec<u16> =
                gates.iter().flat_map(|gate| &gate.listen).map(|at| at.port()).filter(|port| *port != 0).collect();
            ports.sort_unstable();
            ports.dedup();
            ports
        };
        let listened = ports_of(gates.iter().filter(direct).collect());
        let ports = match &self.ports {
            None => listened,
            Some(ports) => {
                for port in ports.get_ref() {
                    self.judge(port, &listened, inspection);
                }
                let mut ports: Vec<u16> = ports.get_ref().iter().map(|port| *port.get_ref()).collect();
                ports.sort_unstable();
                ports.dedup();
                ports
            }
        };
        if ports.is_empty() {
            if !gates.is_empty() {
                let cause = "nobody can be kept out: clients reach no gate by themselves, but through load balancers";
                let remedy = "take [bans.nftables] out: bans are in force here all the same; or name `ports`";
                inspection.warning(enabled.span(), Wrong::new(cause, remedy));
            }
            return None;
        }
        let usual = Nftables::default();
        Some(Nftables {
            table: self.table.as_ref().map_or_else(|| usual.table.clone(), |table| table.get_ref().clone()),
            priority: self.priority.as_ref().map_or(usual.priority, |priority| *priority.get_ref()),
            ports,
            ..usual
        })
    }

    fn judge(&self, port: &Spanned<u16>, listened: &[u16], inspection: &Inspection) {
        let number = *port.get_ref();
        if !listened.contains(&number) && !MAIL.contains(&number) {
            let cause =
                format!("no gate listens at port {number} for clients: whoever is banned would lose more than mail");
            inspection.warning(port.span(), Wrong::new(cause, "name mail ports only"));
        }
    }
}

fn full_path(value: &DeValue<'_>) -> Result<PathBuf, Wrong> {
    let text = text(value)?;
    if text.starts_with('/') && !text.ends_with('/') {
        return Ok(PathBuf::from(text));
    }
    let remedy = "write a file with its full path, in a folder that gatepost may write to: \"/run/gatepost/banned\"";
    Err(Wrong::new(format!("{text:?} is not the full path of a file"), remedy))
}

/// The table is made anew at each start: it must not be somebody else's.
fn table_name(value: &DeValue<'_>) -> Result<String, Wrong> {
    let text = text(value)?;
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if text.starts_with("gatepost") && text.len() <= 32 && text.chars().all(fits) {
        return Ok(text.to_owned());
    }
    let remedy = "the table is deleted and made anew at each start, so it must be gatepost's own: write a name that begins \
                  with \"gatepost\", up to 32 of a-z, 0-9, - and _";
    Err(Wrong::new(format!("{text:?} cannot be the name of the table"), remedy))
}

fn port(value: &DeValue<'_>) -> Result<u16, Wrong> {
    let number = whole(1..=65_535)(value)?;
    u16::try_from(number).map_err(|_| Wrong::new(format!("{number} is no port"), "write a number from 1 to 65535"))
}

fn priority(value: &DeValue<'_>) -> Result<i32, Wrong> {
    let number = whole(-400..=400)(value)?;
    i32::try_from(number)
        .map_err(|_| Wrong::new(format!("{number} is out of range"), "write a number from -400 to 400"))
}
