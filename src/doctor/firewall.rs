//! Whether the packet filter can be told of bans. Nothing is changed: `nft` checks what it would do.

use super::finding::{Findings, Topic};
use crate::firewall::{Failure, Nftables, examine};

/// Tries it as the user who asks.
pub(super) async fn nftables(nftables: &Nftables, out: &mut Findings) {
    let Err(failure) = examine(nftables).await else {
        return out.fine(Topic::Firewall, "nftables can be told of bans, by this user");
    };
    let what = format!("nftables cannot be told of bans, which are in force in gatepost alone: {failure}");
    match failure {
        Failure::Missing(_) => out.wrong(Topic::Firewall, what, "install the package nftables"),
        Failure::Denied(_) => {
            let what = "whether nftables can be told of bans cannot be tried: this user may not";
            out.note(
                Topic::Firewall,
                what,
                "run this as root; the service needs CAP_NET_ADMIN, as gatepost.service shows",
            );
        }
        Failure::Timeout(_) => out.away(Topic::Firewall, what, "see what keeps `nft list ruleset` from ending"),
        Failure::Refused(_) => {
            out.wrong(Topic::Firewall, what, "see whether `nft list ruleset` works here: the kernel may lack nftables");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::{Fault, Level};
    use super::*;

    #[tokio::test]
    async fn each_failure_has_its_remedy() {
        for (script, level, remedy) in [
            ("exit 0", Level::Fine, ""),
            ("echo 'Error: Operation not permitted' >&2; exit 1", Level::Note, "as root"),
            ("echo 'Error: No such file or directory' >&2; exit 1", Level::Problem(Fault::Setup), "nft list ruleset"),
        ] {
            let program = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
            let mut out = Findings::default();
            super::nftables(&Nftables { program, ..Nftables::default() }, &mut out).await;
            assert_eq!(out.0.len(), 1);
            assert_eq!(out.0[0].level, level, "{script}");
            assert!(out.0[0].remedy.contains(remedy), "{script}: {}", out.0[0].remedy);
        }
        let mut out = Findings::default();
        let program = vec!["/nonexistent/nft".to_owned()];
        super::nftables(&Nftables { program, ..Nftables::default() }, &mut out).await;
        assert_eq!(out.0[0].remedy, "install the package nftables");
    }
}
