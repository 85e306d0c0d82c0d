//! `[greet]`, `[limits]` and `[timeouts]`: how long and how much. Each can stand in the file and in a gate; the gate's
//! goes before.

use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use super::door::DoorEntry;
use super::inspection::{Inspection, Wrong};
use super::table::Table;
use super::values::{count, reply_text, span};
use crate::policy::quota;
use crate::relay;
use crate::screen::Greet;
use crate::session::{DialogueLimits, Scene};
use crate::smtp::line::{AUTH_LIMIT, COMMAND_LIMIT};
use crate::time::format_span;

const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

const SECOND: Duration = seconds(1);
const HOUR: Duration = seconds(60 * 60);

/// How long a client waits for a reply before it gives up (RFC 5321 §4.5.3.2).
const CLIENT_PATIENCE: Duration = seconds(5 * 60);

/// What `[greet]` says.
#[derive(Debug, Default)]
pub(super) struct GreetEntry {
    minimum: Option<Spanned<Duration>>,
    maximum: Option<Spanned<Duration>>,
    stress: Option<Spanned<Duration>>,
    teaser: Option<Spanned<Option<String>>>,
}

impl GreetEntry {
    /// Reads the keys of `[greet]`.
    pub(super) fn read(table: &mut Table<'_>) -> Self {
        // Clients give a server five minutes for its greeting (RFC 5321 §4.5.3.2.1); a minute is left for the backend's.
        let range = Duration::ZERO..=seconds(4 * 60);
        Self {
            minimum: table.value("wait_min", span(range.clone())),
            maximum: table.value("wait_max", span(range.clone())),
            stress: table.value("stress_wait", span(range)),
            teaser: table.value("teaser", teaser),
        }
    }

    /// How a gate greets.
    pub(super) fn greet(&self, above: &Self, hostname: &str, inspection: &Inspection) -> Greet {
        let minimum = self.minimum.as_ref().or(above.minimum.as_ref());
        let maximum = self.maximum.as_ref().or(above.maximum.as_ref());
        let stress = self.stress.as_ref().or(above.stress.as_ref());
        let teaser = self.teaser.as_ref().or(above.teaser.as_ref());
        let greet = Greet {
            minimum: minimum.map_or(seconds(3), |span| *span.get_ref()),
            maximum: maximum.map_or(seconds(6), |span| *span.get_ref()),
            stress: stress.map_or(seconds(2), |span| *span.get_ref()),
            teaser: teaser.map_or_else(|| Some(format!("{hostname} ESMTP")), |teaser| teaser.get_ref().clone()),
        };
        if greet.minimum > greet.maximum {
            let (least, most) = (format_span(greet.minimum), format_span(greet.maximum));
            let cause = format!("`wait_min` ({least}) is more than `wait_max` ({most})");
            let remedy = format!("set wait_max = \"{least}\" or more, or wait_min = \"{most}\" or less");
            inspection.error(minimum.or(maximum).map(Spanned::span).unwrap_or_default(), Wrong::new(cause, remedy));
        }
        if let Some(stress) = stress.filter(|_| greet.stress > greet.maximum) {
            let usual = format_span(greet.maximum);
            let cause = format!("this has no effect: nobody waits for more than `wait_max` ({usual}) in any case");
            let remedy = format!("set stress_wait to less than \"{usual}\", or take it out");
            inspection.warning(stress.span(), Wrong::new(cause, remedy));
        }
        greet
    }

    /// Warns of what is said in vain: `pregreet` and `lists` tell whether those tests are made at any of the gates that
    /// this entry speaks of.
    pub(super) fn judge(&self, pregreet: bool, lists: bool, inspection: &Inspection) {
        let no_effect = |span, what: &str| {
            let remedy = "take it out, or turn the test on";
            inspection.warning(span, Wrong::new(format!("this has no effect: {what}"), remedy));
        };
        if !pregreet {
            let wait = self.minimum.as_ref().map(Spanned::span);
            let teaser = self.teaser.as_ref().filter(|teaser| teaser.get_ref().is_some()).map(Spanned::span);
            wait.into_iter().chain(teaser).for_each(|span| no_effect(span, "the test pregreet is off"));
        }
        if let Some(maximum) = self.maximum.as_ref().filter(|_| !pregreet && !lists) {
            no_effect(maximum.span(), "the tests pregreet and dnsbl are off, so that nobody waits");
        }
        if let Some(stress) = self.stress.as_ref().filter(|_| !pregreet && !lists) {
            no_effect(stress.span(), "the tests pregreet and dnsbl are off, so that nobody waits");
        }
        if let Some(minimum) = self.minimum.as_ref().filter(|wait| pregreet && wait.get_ref().is_zero()) {
            let remedy = "give strangers a second or more, or turn the test pregreet off";
            inspection.warning(minimum.span(), Wrong::new("without a wait nobody can speak too early", remedy));
        }
    }
}

fn teaser(value: &DeValue<'_>) -> Result<Option<String>, Wrong> {
    match value {
        DeValue::Boolean(false) => Ok(None),
        DeValue::Boolean(true) => {
            Err(Wrong::new("true is no text", "write the text in quotes, or leave the key out for the usual one"))
        }
        _ => reply_text(200)(value).map(Some),
    }
}

/// What `[limits]` says.
#[derive(Debug, Default)]
pub(super) struct LimitsEntry {
    door: DoorEntry,
    commands: Option<u32>,
    errors: Option<u32>,
    line_length: Option<usize>,
    command_time: Option<Spanned<Duration>>,
    stress_command_time: Option<Spanned<Duration>>,
    dialogue_time: Option<Duration>,
    recipients: Option<u32>,
    idle_commands: Option<u32>,
    message_commands: Option<u32>,
    envelope_time: Option<Duration>,
    min_data_rate: Option<u32>,
}

impl LimitsEntry {
    /// Reads the keys of `[limits]`.
    pub(super) fn read(table: &mut Table<'_>) -> Self {
        Self {
            door: DoorEntry::read(table),
            commands: table.value("commands", count(5..=10_000)).map(Spanned::into_inner),
            errors: table.value("errors", count(1..=10_000)).map(Spanned::into_inner),
            line_length: table.value("line_length", count(512..=AUTH_LIMIT as i64)).map(Spanned::into_inner),
            command_time: table.value("command_time", span(SECOND..=HOUR)),
            stress_command_time: table.value("stress_command_time", span(SECOND..=HOUR)),
            dialogue_time: table.value("dialogue_time", span(SECOND..=HOUR * 24)).map(Spanned::into_inner),
            // RFC 5321 §4.5.3.1.8: a server has to take 100.
            recipients: table.value("recipients", count(100..=1_000_000)).map(Spanned::into_inner),
            idle_commands: table.value("idle_commands", count(5..=1_000_000)).map(Spanned::into_inner),
            message_commands: table.value("message_commands", count(200..=1_000_000_000)).map(Spanned::into_inner),
            envelope_time: table.value("envelope_time", span(SECOND..=HOUR * 24)).map(Spanned::into_inner),
            min_data_rate: table.value("min_data_rate", count(0..=1_000_000)).map(Spanned::into_inner),
        }
    }

    /// How many sessions a gate lets in, and how often.
    pub(super) fn quota(&self, above: &Self, scene: Scene, inspection: &Inspection) -> quota::Settings {
        self.door.quota(&above.door, scene, inspection)
    }

    /// What a gate's dialogue with strangers allows.
    pub(super) fn dialogue(&self, above: &Self, inspection: &Inspection) -> DialogueLimits {
        let command = self.command_time.as_ref().or(above.command_time.as_ref());
        let stress = self.stress_command_time.as_ref().or(above.stress_command_time.as_ref());
        let limits = DialogueLimits {
            commands: self.commands.or(above.commands).unwrap_or(50),
            errors: self.errors(above),
            line: self.line_length.or(above.line_length).unwrap_or(COMMAND_LIMIT),
            command_timeout: command.map_or(CLIENT_PATIENCE, |span| *span.get_ref()),
            stress_command_timeout: stress.map_or(seconds(10), |span| *span.get_ref()),
            total_timeout: self.dialogue_time.or(above.dialogue_time).unwrap_or(seconds(10 * 60)),
        };
        if let Some(command) = command.filter(|_| limits.command_timeout > limits.total_timeout) {
            let total = format_span(limits.total_timeout);
            let cause = format!("`command_time` is more than the whole dialogue may take ({total})");
            let remedy = format!("set command_time = \"{total}\" or less, or raise `dialogue_time`");
            inspection.warning(command.span(), Wrong::new(cause, remedy));
        }
        if let Some(stress) = stress.filter(|_| limits.stress_command_timeout > limits.command_timeout) {
            let usual = format_span(limits.command_timeout);
            let cause = format!("this has no effect: nobody has more than `command_time` ({usual}) in any case");
            let remedy = format!("set stress_command_time to less than \"{usual}\", or take it out");
            inspection.warning(stress.span(), Wrong::new(cause, remedy));
        }
        limits
    }

    /// How much a client may ask for once it is handed on, and how slow it may be.
    pub(super) fn relay(&self, above: &Self) -> relay::Limits {
        let usual = relay::Limits::default();
        relay::Limits {
            recipients: self.recipients.or(above.recipients).unwrap_or(usual.recipients),
            idle_commands: self.idle_commands.or(above.idle_commands).unwrap_or(usual.idle_commands),
            message_commands: self.message_commands.or(above.message_commands).unwrap_or(usual.message_commands),
            envelope: self.envelope_time.or(above.envelope_time).unwrap_or(usual.envelope),
            min_rate: self.min_data_rate.or(above.min_data_rate).unwrap_or(usual.min_rate),
            ..usual
        }
    }

    /// How many refused commands a client may give.
    pub(super) fn errors(&self, above: &Self) -> u32 {
        self.errors.or(above.errors).unwrap_or(20)
    }
}

/// What `[timeouts]` says.
#[derive(Debug, Default)]
pub(super) struct TimeoutsEntry {
    connect: Option<Spanned<Duration>>,
    replay: Option<Spanned<Duration>>,
    command: Option<Duration>,
    data: Option<Duration>,
    reply: Option<Duration>,
    end_of_data: Option<Duration>,
    write: Option<Duration>,
    proxy: Option<Spanned<Duration>>,
}

impl TimeoutsEntry {
    /// Reads the keys of `[timeouts]`.
    pub(super) fn read(table: &mut Table<'_>) -> Self {
        let range = SECOND..=HOUR;
        Self {
            connect: table.value("connect", span(range.clone())),
            replay: table.value("replay", span(range.clone())),
            command: table.value("command", span(range.clone())).map(Spanned::into_inner),
            data: table.value("data", span(range.clone())).map(Spanned::into_inner),
            reply: table.value("reply", span(range.clone())).map(Spanned::into_inner),
            end_of_data: table.value("end_of_data", span(range.clone())).map(Spanned::into_inner),
            write: table.value("write", span(range)).map(Spanned::into_inner),
            // A client gives up on a greeting after five minutes, and this is the least part of what it waits for.
            proxy: table.value("proxy", span(SECOND..=seconds(60))),
        }
    }

    /// How long a gate waits for its backend to answer the connect, and for each reply of the replay.
    pub(super) fn backend(&self, above: &Self, inspection: &Inspection) -> (Duration, Duration) {
        let connect = self.connect.as_ref().or(above.connect.as_ref());
        let replay = self.replay.as_ref().or(above.replay.as_ref());
        let each = (connect.map_or(seconds(10), |s| *s.get_ref()), replay.map_or(seconds(60), |s| *s.get_ref()));
        // The client hears nothing during connect, greeting, EHLO, MAIL and its own RCPT.
        let most = each.0 + each.1 * 4;
        if let Some(longest) = replay.or(connect).filter(|_| most > CLIENT_PATIENCE) {
            let cause = format!("a handoff could take {}, and clients give up after 5m", format_span(most));
            let remedy = "keep `connect` and four times `replay` within 5m together";
            inspection.warning(longest.span(), Wrong::new(cause, remedy));
        }
        each
    }

    /// How long a load balancer has for the whole PROXY header: postscreen's figure unless the file says otherwise.
    pub(super) fn proxy(&self, above: &Self) -> Duration {
        self.proxy.as_ref().or(above.proxy.as_ref()).map_or(seconds(5), |span| *span.get_ref())
    }

    /// Warns of that wait where no PROXY header is taken.
    pub(super) fn judge_proxy(&self, inspection: &Inspection) {
        if let Some(proxy) = &self.proxy {
            let cause = "this has no effect: clients connect themselves, and no PROXY header is taken";
            inspection.warning(proxy.span(), Wrong::new(cause, "take it out, or name load balancers in `proxy_from`"));
        }
    }

    /// The waits of a gate's relay: RFC 5321 §4.5.3.2 unless the file says otherwise.
    pub(super) fn relay(&self, above: &Self) -> relay::Timeouts {
        relay::Timeouts {
            command: self.command.or(above.command).unwrap_or(seconds(5 * 60)),
            data: self.data.or(above.data).unwrap_or(seconds(3 * 60)),
            reply: self.reply.or(above.reply).unwrap_or(seconds(5 * 60)),
            end_of_data: self.end_of_data.or(above.end_of_data).unwrap_or(seconds(10 * 60)),
            write: self.write.or(above.write).unwrap_or(seconds(3 * 60)),
        }
    }
}
