use gatepost::proxy_header::{self, Extras, Header, Parsed, Tls, V1_LIMIT, V2_PAYLOAD_LIMIT, Version, Visit};

use super::chunking_never_matters;

/// A header is no longer than we read, and says the same when it is written in either version, whatever is told besides.
pub fn proxy_header(input: &[u8]) {
    chunking_never_matters(input, proxy_header::parse, |parsed| *parsed == Parsed::Incomplete);
    let Parsed::Complete { header, version, length } = proxy_header::parse(input) else { return };
    let limit = match version {
        Version::V1 => V1_LIMIT,
        Version::V2 => V2_PAYLOAD_LIMIT + 16,
    };
    assert!(length <= limit && length <= input.len());
    for version in [Version::V1, Version::V2] {
        let mut out = Vec::new();
        proxy_header::write_with(&mut out, version, &header, &extras(input));
        let header = match (version, &header) {
            (Version::V1, Header::Local) => Header::Unknown,
            (_, header) => header.clone(),
        };
        assert_eq!(proxy_header::parse(&out), Parsed::Complete { header, version, length: out.len() });
    }
}

/// One of the things that can be told besides, as the input's last bytes have it.
fn extras(input: &[u8]) -> Extras {
    let mut id = *b"00000-00000";
    id.iter_mut().zip(input.iter().rev()).for_each(|(symbol, byte)| *symbol = *byte);
    let last = input.last().copied().unwrap_or_default();
    let tls = Tls { version: "TLSv1.3", cipher: "TLS_AES_256_GCM_SHA384", certificate: last % 8 == 7 };
    let score = (last % 3 == 0).then_some(i32::from(last) - 100);
    Extras { tls: (last % 2 == 1).then_some(tls), visit: (last % 5 > 0).then_some(Visit { id, score }) }
}
