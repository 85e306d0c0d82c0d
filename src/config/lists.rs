//! `[dnsbl]`: which lists are asked, and what their answers are worth.

use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use super::inspection::{Inspection, Wrong};
use super::table::Table;
use super::values::{count, name_server, reply_text, span, text, whole};
use crate::dnsbl;
use crate::screen::score::{Hits, MAX_SITES, NotASite, parse_list};
use crate::screen::{Site, Thresholds};

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// What `[dnsbl]` says.
#[derive(Debug)]
pub(super) struct DnsblEntry {
    /// How the lists are asked; nothing if none are named.
    pub(super) settings: Option<dnsbl::Settings>,
    /// Where they are named.
    place: Option<Range<usize>>,
    /// When their score counts.
    pub(super) thresholds: Thresholds,
}

impl DnsblEntry {
    /// Reads the keys of `[dnsbl]`.
    pub(super) fn read(table: &mut Table<'_>) -> Self {
        let inspection = table.inspection();
        let sites = table.list("sites", sites);
        let names = table.map("names", display_name);
        let threshold = table.value("threshold", whole(1..=1_000_000));
        let allow = table.value("allow_threshold", whole(-1_000_000..=1_000_000));
        let (minimum, maximum) =
            (table.value("min_ttl", span(SECOND..=DAY)), table.value("max_ttl", span(SECOND..=DAY * 30)));
        let settings = read_settings(table);

        let said_in_vain = [threshold.as_ref().map(Spanned::span), allow.as_ref().map(Spanned::span)];
        let place = sites.as_ref().map(Spanned::span);
        let complete = sites.as_ref().is_none_or(|read| read.get_ref().len() == table.items("sites"));
        let sites = finish_sites(sites, table, inspection);
        if sites.is_empty() && complete {
            let spans = said_in_vain.into_iter().flatten().chain(names.iter().map(|(name, _)| name.span()));
            spans.for_each(|span| no_lists(span, inspection));
        }
        let thresholds = Thresholds {
            block: threshold.as_ref().map_or(1, |number| narrow(*number.get_ref())),
            allow: allow.as_ref().and_then(|number| allow_threshold(number, inspection)),
            ttl: ttl_range(minimum, maximum, inspection),
        };
        judge_sites(&sites, inspection);
        let sites: Vec<Site> = sites.into_iter().map(Spanned::into_inner).collect();
        if complete && !sites.is_empty() {
            let allow = allow.as_ref().filter(|_| thresholds.allow.is_some());
            judge_thresholds(&sites, threshold.as_ref(), allow, inspection);
        }
        let sites = rename(sites, names, complete, inspection);
        let settings = (!sites.is_empty()).then_some(dnsbl::Settings { sites, ..settings });
        Self { settings, place, thresholds }
    }

    /// How the lists are asked, given whether any gate wants to know.
    pub(super) fn wanted(self, made: bool, inspection: &Inspection) -> Option<dnsbl::Settings> {
        let settings = self.settings?;
        if made {
            return Some(settings);
        }
        let remedy = "give a gate's test `dnsbl` an action (a submission gate leaves it off), or take [dnsbl] out";
        let wrong = Wrong::new("these lists are never asked: no gate makes the test dnsbl", remedy);
        inspection.warning(self.place.unwrap_or_default(), wrong);
        None
    }
}

/// Everything but the sites.
fn read_settings(table: &mut Table<'_>) -> dnsbl::Settings {
    let nameservers: Vec<SocketAddr> = table
        .list("nameservers", name_server)
        .map(|servers| servers.into_inner().into_iter().map(Spanned::into_inner).collect())
        .unwrap_or_default();
    let seconds = Duration::from_secs;
    let length = |read: Option<Spanned<Duration>>, default| read.map_or(default, Spanned::into_inner);
    dnsbl::Settings {
        sites: Vec::new(),
        nameservers,
        timeout: length(table.value("timeout", span(Duration::from_millis(100)..=seconds(60))), seconds(5)),
        cache_entries: table.value("cache_entries", count(1_000..=100_000_000)).map_or(100_000, Spanned::into_inner),
        self_test: length(table.value("self_test", self_test), seconds(30 * 60)),
        breaker_failures: table.value("breaker_failures", count(1..=1_000_000)).map_or(5, Spanned::into_inner),
        breaker_pause: length(table.value("breaker_pause", span(SECOND..=DAY)), seconds(60)),
        alarm_percent: table.value("alarm_percent", count(1..=100)).map_or(98, Spanned::into_inner),
        alarm_sample: table.value("alarm_sample", count(10..=1_000_000)).map_or(200, Spanned::into_inner),
    }
}

/// How often lists are tested; `false` for never.
fn self_test(value: &DeValue<'_>) -> Result<Duration, Wrong> {
    match value {
        DeValue::Boolean(false) => Ok(Duration::ZERO),
        _ => span(Duration::from_secs(60)..=DAY * 7)(value)
            .map_err(|wrong| Wrong::new(wrong.cause, format!("{}, or false for no self-test", wrong.remedy))),
    }
}

fn display_name(value: &DeValue<'_>) -> Result<String, Wrong> {
    match value {
        DeValue::Table(_) => {
            Err(Wrong::new("the dots made tables of the zone", "put the zone in quotes: \"key.zen.example\" = \"zen\""))
        }
        _ => reply_text(100)(value),
    }
}

/// One site, or several with commas or blanks between them, as postscreen has them.
fn sites(value: &DeValue<'_>) -> Result<Vec<Site>, Wrong> {
    parse_list(text(value)?).map_err(|reasons| {
        let reasons: Vec<String> = reasons.iter().map(NotASite::to_string).collect();
        let remedy =
            "write zone, zone=filter, zone*weight or zone=filter*weight: \"zen.spamhaus.org=127.0.0.[2..11]*3\"";
        Wrong::new(reasons.join("; "), remedy)
    })
}

fn no_lists(span: Range<usize>, inspection: &Inspection) {
    let remedy = "name some lists in `sites`, such as \"zen.spamhaus.org\", or take it out";
    inspection.warning(span, Wrong::new("this has no effect: no list is asked", remedy));
}

/// The sites, once what is wrong with their number is told.
fn finish_sites(
    sites: Option<Spanned<Vec<Spanned<Vec<Site>>>>>,
    table: &Table<'_>,
    inspection: &Inspection,
) -> Vec<Spanned<Site>> {
    let Some(sites) = sites else {
        if let Some(span) = table.span() {
            let remedy = "add sites = [\"zen.spamhaus.org\"], or take [dnsbl] out";
            inspection.warning(span, Wrong::new("[dnsbl] without `sites` asks no list", remedy));
        }
        return Vec::new();
    };
    let span = sites.span();
    let one_by_one = |read: Spanned<Vec<Site>>| {
        let span = read.span();
        read.into_inner().into_iter().map(move |site| Spanned::new(span.clone(), site))
    };
    let sites: Vec<Spanned<Site>> = sites.into_inner().into_iter().flat_map(one_by_one).collect();
    if table.items("sites") == 0 {
        no_lists(span.clone(), inspection);
    }
    if sites.len() > MAX_SITES {
        let remedy = format!("keep to {MAX_SITES}, and to the lists that you trust most");
        inspection.error(span, Wrong::new(format!("{} lists are too many", sites.len()), remedy));
    }
    for (index, site) in sites.iter().enumerate() {
        let same_zone = |other: &&Spanned<Site>| other.get_ref().zone == site.get_ref().zone;
        if sites.iter().take(index).filter(same_zone).count() == Hits::MAX {
            let remedy = format!("keep to {}, by joining filters: 127.0.0.[2;4..11]", Hits::MAX);
            inspection.error(site.span(), Wrong::new("one zone has too many entries", remedy));
        }
    }
    sites
}

/// Warns of lists that count twice or for nothing.
fn judge_sites(sites: &[Spanned<Site>], inspection: &Inspection) {
    for (index, site) in sites.iter().enumerate() {
        let same = |other: &&Spanned<Site>| {
            (&other.get_ref().zone, &other.get_ref().filter) == (&site.get_ref().zone, &site.get_ref().filter)
        };
        if let Some(first) = sites.iter().take(index).find(same) {
            let wrong =
                Wrong::new("this list counts twice", "take one of the two out, and give the other both weights");
            inspection.warning_with(site.span(), wrong, first.span(), "it is here already");
        }
        if site.get_ref().weight == 0 {
            let wrong = Wrong::new("a weight of 0 has no effect", "give it a weight, or take the list out");
            inspection.warning(site.span(), wrong);
        }
    }
}

/// Warns of thresholds that no score can reach.
fn judge_thresholds(
    sites: &[Site],
    threshold: Option<&Spanned<i64>>,
    allow: Option<&Spanned<i64>>,
    inspection: &Inspection,
) {
    let weights = || sites.iter().map(|site| i64::from(site.weight));
    let most: i64 = weights().filter(|&weight| weight > 0).sum();
    let least: i64 = weights().filter(|&weight| weight < 0).sum();
    if let Some(threshold) = threshold.filter(|threshold| *threshold.get_ref() > most) {
        let cause = format!("no client can reach this: all lists together weigh {most}");
        let remedy = format!("set it to {} or less, or raise the weights", most.max(1));
        inspection.warning(threshold.span(), Wrong::new(cause, remedy));
    }
    if let Some(allow) = allow.filter(|allow| *allow.get_ref() < least) {
        let cause = format!("no client can get down to this: the lists of negative weight sum up to {least}");
        let remedy = "add an allow list such as \"list.dnswl.org=127.0.[0..255].[1..3]*-2\", or take the threshold out";
        inspection.warning(allow.span(), Wrong::new(cause, remedy));
    }
}

/// Gives the sites the names that replies, logs and metrics use.
fn rename(
    mut sites: Vec<Site>,
    names: Vec<(Spanned<String>, Spanned<String>)>,
    complete: bool,
    inspection: &Inspection,
) -> Vec<Site> {
    for (zone, shown) in names {
        let wanted = zone.get_ref().trim_end_matches('.');
        let mut found = false;
        for site in sites.iter_mut().filter(|site| site.zone.trim_end_matches('.').eq_ignore_ascii_case(wanted)) {
            site.display.clone_from(shown.get_ref());
            found = true;
        }
        if !found && complete && !sites.is_empty() {
            let remedy = "write the zone as in `sites`, without =filter and *weight";
            inspection.warning(zone.span(), Wrong::new("this is not the zone of any list", remedy));
        }
    }
    sites
}

fn allow_threshold(number: &Spanned<i64>, inspection: &Inspection) -> Option<i32> {
    if *number.get_ref() < 0 {
        return Some(narrow(*number.get_ref()));
    }
    let remedy = "write a number below 0, such as -2, or take it out";
    inspection.warning(number.span(), Wrong::new("an allow threshold of 0 or more has no effect", remedy));
    None
}

fn ttl_range(
    minimum: Option<Spanned<Duration>>,
    maximum: Option<Spanned<Duration>>,
    inspection: &Inspection,
) -> (Duration, Duration) {
    let length = |read: &Option<Spanned<Duration>>, default| read.as_ref().map_or(default, |span| *span.get_ref());
    let (least, most) = (length(&minimum, SECOND * 60), length(&maximum, SECOND * 60 * 60));
    if least > most {
        let span = minimum.or(maximum).map(|span| span.span()).unwrap_or_default();
        let most = crate::time::format_span(most);
        let cause = format!("`min_ttl` is more than `max_ttl` ({most})");
        inspection.error(span, Wrong::new(cause, "raise `max_ttl`, or lower `min_ttl`"));
    }
    (least, most)
}

/// Within the range that was asked for, and so within `i32`.
fn narrow(number: i64) -> i32 {
    i32::try_from(number).unwrap_or(if number < 0 { i32::MIN } else { i32::MAX })
}
