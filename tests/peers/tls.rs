//! A gate whose TLS ends here, on both kinds of port, before a backend of the test's choice.

use std::net::SocketAddr;
use std::path::Path;

use super::{ALLOWED, GREET_WAIT};
use crate::host::certificates::Certificates;
use crate::host::gate::{Gate, Place};

/// The file of a gate `mx` with STARTTLS at [`Place::smtp`], and of a gate `submissions` with TLS first at
/// [`Place::second`]; both show the certificates for mx.test and for other.test that are in `shown`.
pub fn text(at: &Place<'_>, backend: SocketAddr, shown: &Path, lines: &str) -> String {
    let wait = GREET_WAIT.as_millis();
    let pair = |name: &str| format!("{{ chain = '{0}/{name}.pem', key = '{0}/{name}.key' }}", shown.display());
    let certificates = format!("certificates = [{}, {}]", pair("mx.test"), pair("other.test"));
    format!(
        "hostname = 'mx.test'\nadmin = '{}'\nledger.path = 'memory'\n[limits]\nrate_per_stranger = false\n\
         sessions_per_stranger = 50\n[greet]\nwait_min = '{wait}ms'\nwait_max = '6s'\n\
         [access]\nallow = '{ALLOWED}'\n\
         [[gate]]\nname = 'mx'\nlisten = '{}'\nbackend = '{backend}'\n\
         [gate.tls]\nstarttls = 'here'\n{certificates}\n{lines}\n\
         [[gate]]\nscene = 'submissions'\nlisten = '{}'\nbackend = '{backend}'\n\
         [gate.tls]\n{certificates}\n{lines}\n",
        at.admin, at.smtp, at.second,
    )
}

/// A running gate like that, whose sections `[gate.tls]` have these lines too.
#[track_caller]
pub fn before(backend: SocketAddr, certificates: &Certificates, lines: &str) -> Gate {
    Gate::start(|at| text(at, backend, certificates.folder(), lines))
}
