//! The part of `[limits]` that is asked at the door: how many sessions at once, and how often, by what a client has shown
//! of itself.

use toml::Spanned;

use super::inspection::{Inspection, Wrong};
use super::table::Table;
use super::values::{count, quota};
use crate::policy::class::PerClass;
use crate::policy::gcra::Quota;
use crate::policy::quota;
use crate::session::Scene;

/// Sessions at once of a client that has passed, and of any on a submission port.
const PER_CLIENT: u32 = 50;

/// Of a stranger: as many as the usual MTA opens to one destination.
const PER_STRANGER: u32 = 20;

/// Of somebody who has done wrong lately.
const PER_OFFENDER: u32 = 2;

/// Of a /24 or /48: ten busy hosts, and a twentieth of the house.
const PER_PREFIX: u32 = 500;

const RATE_PER_STRANGER: &str = "60/1m";
const RATE_PER_OFFENDER: &str = "6/1m";

/// Percent of all sessions.
const RESERVED: u32 = 20;

/// What the file says of it.
#[derive(Debug, Default)]
pub(super) struct DoorEntry {
    sessions: Option<Spanned<u32>>,
    reserved: Option<Spanned<u32>>,
    per_client: Option<Spanned<u32>>,
    per_stranger: Option<Spanned<u32>>,
    per_offender: Option<Spanned<u32>>,
    per_prefix: Option<Spanned<u32>>,
    client_rate: Option<Spanned<Option<Quota>>>,
    stranger_rate: Option<Spanned<Option<Quota>>>,
    offender_rate: Option<Spanned<Option<Quota>>>,
}

impl DoorEntry {
    /// Reads these keys.
    pub(super) fn read(table: &mut Table<'_>) -> Self {
        let number = || count(1..=1_000_000);
        Self {
            sessions: table.value("sessions", number()),
            reserved: table.value("reserved_percent", count(0..=100)),
            per_client: table.value("sessions_per_client", number()),
            per_stranger: table.value("sessions_per_stranger", number()),
            per_offender: table.value("sessions_per_offender", number()),
            per_prefix: table.value("sessions_per_prefix", number()),
            client_rate: table.value("rate_per_client", quota),
            stranger_rate: table.value("rate_per_stranger", quota),
            offender_rate: table.value("rate_per_offender", quota),
        }
    }

    /// The limits at a gate's door. People's programs seldom pass every test, and an office of them is behind one address: on
    /// a submission port strangers have by default what known clients have.
    pub(super) fn quota(&self, above: &Self, scene: Scene, inspection: &Inspection) -> quota::Settings {
        let own = Keys { own: self, above };
        let is_mx = scene == Scene::Mx;
        let total = own.value(|door| &door.sessions).unwrap_or(10_000);
        let passed = own.value(|door| &door.per_client).unwrap_or(PER_CLIENT);
        let unknown = if is_mx { passed.min(PER_STRANGER) } else { passed };
        let unknown = own.value(|door| &door.per_stranger).unwrap_or(unknown);
        let bad = own.value(|door| &door.per_offender).unwrap_or(unknown.min(PER_OFFENDER));
        let per_client = PerClass { passed, unknown, bad };
        let per_prefix = own.value(|door| &door.per_prefix);

        let usual = |text: &str| text.parse().ok();
        let passed = own.value(|door| &door.client_rate).unwrap_or(None);
        let unknown = if is_mx { narrower(usual(RATE_PER_STRANGER), passed) } else { passed };
        let unknown = own.value(|door| &door.stranger_rate).unwrap_or(unknown);
        let bad = narrower(usual(RATE_PER_OFFENDER), unknown);
        let bad = own.value(|door| &door.offender_rate).unwrap_or(bad);
        let rate = PerClass { passed, unknown, bad };

        let share = own.value(|door| &door.reserved).unwrap_or(RESERVED);
        let reserved = u32::try_from(u64::from(total) * u64::from(share) / 100).unwrap_or(total);
        let settings = quota::Settings {
            per_client: PerClass {
                passed: per_client.passed.min(total),
                unknown: per_client.unknown.min(total),
                bad: per_client.bad.min(total),
            },
            per_prefix: per_prefix.unwrap_or(PER_PREFIX.max(per_client.passed).max(per_client.unknown)),
            rate,
            total,
            reserved,
        };
        own.judge(&settings, per_client, inspection);
        settings
    }
}

/// The narrower of two rates, where none is the widest.
fn narrower(one: Option<Quota>, other: Option<Quota>) -> Option<Quota> {
    match (one, other) {
        (Some(one), Some(other)) if one.exceeds(other) => Some(other),
        (None, other) => other,
        (one, _) => one,
    }
}

/// Whether a rate is more generous than another.
fn exceeds(one: Option<Quota>, other: Option<Quota>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => one.exceeds(other),
        (one, other) => one.is_none() && other.is_some(),
    }
}

/// What a gate says, and above it the file.
#[derive(Clone, Copy)]
struct Keys<'a> {
    own: &'a DoorEntry,
    above: &'a DoorEntry,
}

impl<'a> Keys<'a> {
    fn key<T>(self, key: impl Fn(&'a DoorEntry) -> &'a Option<Spanned<T>>) -> Option<&'a Spanned<T>> {
        key(self.own).as_ref().or(key(self.above).as_ref())
    }

    fn value<T: Copy + 'a>(self, key: impl Fn(&'a DoorEntry) -> &'a Option<Spanned<T>>) -> Option<T> {
        self.key(key).map(|value| *value.get_ref())
    }

    /// Tells of limits that contradict each other.
    fn judge(self, settings: &quota::Settings, said: PerClass<u32>, inspection: &Inspection) {
        let total = settings.total;
        let per_client = self.key(|door| &door.per_client);
        let per_stranger = self.key(|door| &door.per_stranger);
        let per_offender = self.key(|door| &door.per_offender);
        for (name, key) in [
            ("sessions_per_client", per_client),
            ("sessions_per_stranger", per_stranger),
            ("sessions_per_offender", per_offender),
        ] {
            if let Some(key) = key.filter(|key| *key.get_ref() > total) {
                let cause = format!("one client can never have more sessions than all together ({total})");
                let remedy = format!("set `{name}` to {total} or less, or raise `sessions`");
                inspection.warning(key.span(), Wrong::new(cause, remedy));
            }
        }
        if settings.open_to_strangers() == 0 {
            let key = self.key(|door| &door.reserved).or(self.key(|door| &door.sessions));
            let cause = "nothing is left for strangers: nobody new could ever come in and pass the tests";
            let remedy = "set reserved_percent = 20, or anything below 100";
            inspection.error(key.map(Spanned::span).unwrap_or_default(), Wrong::new(cause, remedy));
        }
        self.judge_order(said, settings, inspection);
        if let Some(prefix) = self.key(|door| &door.per_prefix)
            && *prefix.get_ref() < said.passed.max(said.unknown)
        {
            let most = said.passed.max(said.unknown);
            let cause = format!("one client may have {most} sessions, which is more than the network that it is in");
            let remedy = format!("set sessions_per_prefix = {most} or more, or lower the limits of one client");
            inspection.warning(prefix.span(), Wrong::new(cause, remedy));
        }
    }

    /// Tells of those who have shown less and may do more. The defaults are in order: it is due to a key of the file's.
    fn judge_order(self, said: PerClass<u32>, settings: &quota::Settings, inspection: &Inspection) {
        let at = |key: Option<&Spanned<u32>>| key.map(Spanned::span);
        let client = at(self.key(|door| &door.per_client));
        let stranger = at(self.key(|door| &door.per_stranger));
        let offender = at(self.key(|door| &door.per_offender));
        let sessions = [
            (
                said.unknown > said.passed,
                stranger.clone().or(client),
                ["strangers", "known clients"],
                ["sessions_per_stranger", "sessions_per_client"],
            ),
            (
                said.bad > said.unknown,
                offender.or(stranger),
                ["offenders", "strangers"],
                ["sessions_per_offender", "sessions_per_stranger"],
            ),
        ];
        let rate = settings.rate;
        let at = |key: Option<&Spanned<Option<Quota>>>| key.map(Spanned::span);
        let client = at(self.key(|door| &door.client_rate));
        let stranger = at(self.key(|door| &door.stranger_rate));
        let offender = at(self.key(|door| &door.offender_rate));
        let rates = [
            (
                exceeds(rate.unknown, rate.passed),
                stranger.clone().or(client),
                ["strangers", "known clients"],
                ["rate_per_stranger", "rate_per_client"],
            ),
            (
                exceeds(rate.bad, rate.unknown),
                offender.or(stranger),
                ["offenders", "strangers"],
                ["rate_per_offender", "rate_per_stranger"],
            ),
        ];
        for (_, span, [lesser, greater], [key, than]) in sessions.into_iter().chain(rates).filter(|row| row.0) {
            let cause = format!("{lesser} may do more than {greater}: `{key}` is wider than `{than}`");
            let wrong = Wrong::new(cause, format!("lower `{key}`, or raise `{than}`"));
            inspection.warning(span.unwrap_or_default(), wrong);
        }
    }
}
