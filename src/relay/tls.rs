//! Where TLS with the client ends, and what a client may be offered because of that.

use crate::smtp::ehlo::{Keyword, Keywords, Offer};

/// Where TLS with the client ends.
///
/// ```text
///  EndToEnd, Off     for good
///  Offered ── STARTTLS, 220, handshake ──► Begun
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Tls {
    /// At the backend: its STARTTLS is passed through.
    #[default]
    EndToEnd,
    /// There is none: STARTTLS is withheld.
    Off,
    /// Here, once the client says STARTTLS. The backend's own is never passed on.
    Offered {
        /// Whether AUTH has to wait for it.
        before_auth: bool,
    },
    /// Here, and it has begun.
    Begun,
}

impl Tls {
    /// What of a backend's `offer` a client may be shown.
    ///
    /// Where TLS ends here, what the backend offers in the way of TLS is between the two of us: STARTTLS is ours to
    /// offer, REQUIRETLS (RFC 8689) is a promise that the backend cannot keep, and mechanisms bound to a channel
    /// (RFC 5802 §6) are bound to one that ends here.
    pub fn shown(self, offer: Offer) -> Offer {
        if self == Self::EndToEnd {
            return offer;
        }
        let mut keep = Keywords::ALL.without(Keyword::StartTls).without(Keyword::RequireTls);
        if self.bars_auth() {
            keep = keep.without(Keyword::Auth);
        }
        let offer = offer.without_plus().only(keep);
        if self.is_offered() { offer.with(Keyword::StartTls) } else { offer }
    }

    /// Whether the client can begin it, here.
    pub fn is_offered(self) -> bool {
        matches!(self, Self::Offered { .. })
    }

    /// Whether AUTH has to wait for it.
    pub fn bars_auth(self) -> bool {
        self == Self::Offered { before_auth: true }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smtp::reply::{self, Parsed};

    fn shown(tls: Tls, backend: &[u8]) -> String {
        let Parsed::Complete(said) = reply::parse(backend) else { panic!("no reply") };
        let offer = tls.shown(Offer::read(&said));
        let mut out = Vec::new();
        offer.write(&mut out, b"mx.test", offer.keywords);
        String::from_utf8(out).unwrap().replace("\r\n", "|").replace("250-", "").replace("250 ", "")
    }

    #[test]
    fn what_a_client_is_shown_depends_on_where_tls_ends() {
        let bare = b"250-mta\r\n250-SIZE 9\r\n250 AUTH PLAIN SCRAM-SHA-256-PLUS\r\n";
        let full = b"250-mta\r\n250-STARTTLS\r\n250-REQUIRETLS\r\n250-AUTH SCRAM-SHA-256-PLUS\r\n250 SIZE 9\r\n";
        let (here, waiting) = (Tls::Offered { before_auth: false }, Tls::Offered { before_auth: true });
        for (tls, of_bare, of_full) in [
            (
                Tls::EndToEnd,
                "mx.test|SIZE 9|AUTH PLAIN SCRAM-SHA-256-PLUS|",
                "mx.test|STARTTLS|REQUIRETLS|AUTH SCRAM-SHA-256-PLUS|SIZE 9|",
            ),
            (Tls::Off, "mx.test|SIZE 9|AUTH PLAIN|", "mx.test|SIZE 9|"),
            (here, "mx.test|SIZE 9|AUTH PLAIN|STARTTLS|", "mx.test|SIZE 9|STARTTLS|"),
            (waiting, "mx.test|SIZE 9|STARTTLS|", "mx.test|SIZE 9|STARTTLS|"),
            (Tls::Begun, "mx.test|SIZE 9|AUTH PLAIN|", "mx.test|SIZE 9|"),
        ] {
            assert_eq!(shown(tls, bare), of_bare, "{tls:?}");
            assert_eq!(shown(tls, full), of_full, "{tls:?}");
        }
    }
}
