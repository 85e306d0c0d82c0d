use gatepost::proxy_header::{self, Header, Parsed, V1_LIMIT, V2_PAYLOAD_LIMIT, Version};

use super::chunking_never_matters;

/// A header is no longer than we read, and says the same when it is written in either version.
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
        proxy_header::write(&mut out, version, &header);
        let header = match (version, &header) {
            (Version::V1, Header::Local) => Header::Unknown,
            (_, header) => header.clone(),
        };
        assert_eq!(proxy_header::parse(&out), Parsed::Complete { header, version, length: out.len() });
    }
}
