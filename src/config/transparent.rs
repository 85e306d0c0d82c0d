//! `announce = "transparent"`: what the file alone can tell of whether clients can be shown to the backend, and what the
//! network around has to do.

use std::net::{IpAddr, SocketAddr};

use toml::Spanned;

use super::inspection::{Inspection, Wrong};
use crate::backend::{Announce, Family};

/// Warns of each address to listen at whose clients a backend of the other family could never be shown. A name can lead
/// to both families.
pub(super) fn judge(
    announce: Option<&Spanned<Announce>>,
    listen: &[Spanned<SocketAddr>],
    backend: Option<&Spanned<String>>,
    inspection: &Inspection,
) {
    let transparent = announce.is_some_and(|announce| *announce.get_ref() == Announce::Transparent);
    let Some(backend) = backend.filter(|_| transparent) else { return };
    let Some(theirs) = literal(backend.get_ref()).map(Family::of) else { return };
    for socket in listen {
        let ours = Family::of(socket.get_ref().ip());
        if ours != theirs {
            let cause = format!(
                "clients that come here over {ours} get 421: no connection from their addresses leads to the backend's, \
                 which is {theirs}"
            );
            let remedy = "give `backend` as a name that has addresses of both families (/etc/hosts will do), or take \
                          this address out of `listen`";
            inspection.warning_with(socket.span(), Wrong::new(cause, remedy), backend.span(), "this is the backend");
        }
    }
}

/// What has to be so around a gate before `backend` beyond the file, in a line for its author.
pub(super) fn needs(backend: &str) -> String {
    let here = literal(backend).map_or_else(|| backend.starts_with("localhost:"), |ip| ip.is_loopback());
    let routes = if here {
        format!("what {backend} sends to clients' addresses has to stay on this host")
    } else {
        format!(
            "what {backend} sends to clients has to come back to this host (its default gateway, or a policy route), \
             which has to take that for its own"
        )
    };
    format!("{routes}: deploy/transparent-routes.sh does it, docs/operations.md tells how")
}

/// The address in a backend that is given by number.
fn literal(backend: &str) -> Option<IpAddr> {
    backend.parse().ok().map(|socket: SocketAddr| socket.ip())
}
