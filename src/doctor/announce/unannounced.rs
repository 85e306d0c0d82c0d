//! Not announced at all, or by a header field in each message alone: to the MTA, all clients are gatepost. What it grants
//! that address is for `strangers` to see; here is what it does not learn, and how it could.

use super::xclient;
use crate::backend::Announce;
use crate::doctor::backend::Met;
use crate::doctor::finding::{Findings, Topic};
use crate::session::{self, Tls};
use crate::smtp::ehlo::Keyword;

/// Tells what the MTA does not know.
pub(super) fn tell(gate: &session::Settings, met: &Met, out: &mut Findings) {
    let has_field = gate.backend.announce == Announce::Header;
    let what = if has_field {
        "the MTA is told who the client is by a field in the message alone: in its log, its limits and its rules at RCPT, \
         all are gatepost. Only what reads the first Received: field finds the client"
    } else {
        "the MTA is not told who the client is: in its log, its limits and its rules, all are gatepost"
    };
    let remedy = if xclient::is_offered(&met.hello) {
        "set announce = \"xclient\": the MTA offers XCLIENT to gatepost"
    } else {
        "set announce = \"proxy-v2\" if the MTA can take PROXY headers (Postfix and Exim can), or \"transparent\" if its \
         answers can be routed through this host"
    };
    out.note(Topic::Announce, what, remedy);
    let passes_tls = matches!(gate.tls, Tls::EndToEnd) && gate.backend.tls.is_none();
    if has_field && passes_tls && met.offer.keywords.has(Keyword::StartTls) {
        let what = "messages that come under TLS carry no field: the MTA offers STARTTLS, which is passed through";
        out.warn(Topic::Announce, what, "let TLS with clients end here, with certificates in [gate.tls]");
    }
}
