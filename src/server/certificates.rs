//! The gates' certificates: handed on at a reload, looked after while the server runs.

use std::sync::Arc;
use std::time::Duration;

use super::Server;
use crate::metrics::CertificateState;
use crate::session::Gate;
use crate::time::Timestamp;
use crate::tls::{Expiry, Keyring, Problems, Reload};

/// Every how often the files of certificates are looked at.
const CERTIFICATES: Duration = Duration::from_secs(10);

impl Server {
    /// Leaves in force what is good of the certificates of before, where the file's is not, and says what is not good now.
    pub(super) fn hand_on_certificates(&self, gates: &[Arc<Gate>]) {
        let now = self.house.clock.now();
        let before: Vec<Arc<Gate>> = self.doors.iter().map(|door| door.gate.load_full()).collect();
        for gate in gates {
            let Some(keyring) = gate.settings.tls.keyring() else { continue };
            let olds = before.iter().filter_map(|gate| gate.settings.tls.keyring());
            let kept: Vec<_> = olds.flat_map(|old| keyring.keep_what_is_good(old, now)).collect();
            if !kept.is_empty() {
                tell_kept(&gate.name, &Problems(kept));
            }
            tell_out_of_date(&gate.name, keyring, now);
        }
    }

    /// Looks after the gates' certificates: renewed ones are in force without anybody's doing.
    pub(super) fn keep_certificates(&mut self, gates: Vec<Arc<Gate>>) {
        let shown = gates.clone();
        self.house.metrics.sources().set_certificates(move || shown.iter().flat_map(certificates).collect());
        let clock = self.house.clock.clone();
        let keep = tokio::spawn(async move {
            loop {
                tokio::time::sleep(CERTIFICATES).await;
                for gate in gates.iter().filter(|gate| gate.settings.tls.keyring().is_some()) {
                    let (gate, now) = (Arc::clone(gate), clock.now());
                    let _ = tokio::task::spawn_blocking(move || renew(&gate, now)).await;
                }
            }
        });
        if let Some(before) = self.certificates.replace(keep.abort_handle()) {
            before.abort();
        }
    }
}

fn certificates(gate: &Arc<Gate>) -> Vec<CertificateState> {
    let expiries = gate.settings.tls.keyring().map(Keyring::expiries).unwrap_or_default();
    let of = |Expiry { name, not_after }| CertificateState {
        gate: Arc::clone(&gate.name),
        name,
        not_after: not_after.seconds(),
    };
    expiries.into_iter().map(of).collect()
}

/// Takes a gate's certificates anew if their files have changed, and says so.
fn renew(gate: &Gate, now: Timestamp) {
    let Some(keyring) = gate.settings.tls.keyring() else { return };
    match keyring.reload_if_changed(now) {
        Reload::Unchanged => {}
        Reload::Swapped => {
            tracing::info!(gate = %gate.name, "the certificates have changed; the new ones are in force");
            tell_out_of_date(&gate.name, keyring, now);
        }
        Reload::Kept(problems) => tell_kept(&gate.name, &problems),
        Reload::Broken(problems) => tracing::error!(
            gate = %gate.name,
            "the certificates have changed and cannot be used; those before stay in force:\n{problems}"
        ),
    }
}

fn tell_kept(gate: &str, problems: &Problems) {
    tracing::error!(
        gate,
        "a certificate in its file is not good now; the one before, which is, stays in force:\n{problems}"
    );
}

fn tell_out_of_date(gate: &str, keyring: &Keyring, now: Timestamp) {
    for problem in keyring.out_of_date(now) {
        tracing::warn!(gate, "a certificate is not good now, and is shown all the same: {problem}");
    }
}
