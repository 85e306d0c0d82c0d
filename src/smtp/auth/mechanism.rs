//! SASL mechanisms: where in its messages each has the name of the account.

use super::Account;

/// A mechanism, as far as its messages are read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mechanism {
    /// RFC 4616: authzid NUL authcid NUL password.
    Plain,
    /// draft-murchison-sasl-login: the name, then the password.
    Login,
    /// RFC 2195: the name, a blank, a digest.
    CramMd5,
    /// RFC 2831: directives, `username="…"` among them.
    DigestMd5,
    /// RFC 5802 and its kin: `n,,n=user,r=nonce`, then a proof.
    Scram,
    /// Google's: `user=…`, control A, `auth=Bearer …`.
    Xoauth2,
    /// RFC 7628: `n,a=user,`, and key-value pairs.
    OauthBearer,
    /// MS-NLMP: the name is in the third message.
    Ntlm,
    /// RFC 4422 appendix A: who it is to act as.
    External,
    /// Any other (GSSAPI among them): nothing is read out of it.
    Other,
}

impl Mechanism {
    /// The mechanism called `name`, in either case.
    pub(super) fn of(name: &[u8]) -> Self {
        let is = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
        match name {
            _ if is("PLAIN") => Self::Plain,
            _ if is("LOGIN") => Self::Login,
            _ if is("CRAM-MD5") => Self::CramMd5,
            _ if is("DIGEST-MD5") => Self::DigestMd5,
            _ if is("XOAUTH2") => Self::Xoauth2,
            _ if is("OAUTHBEARER") || is("OAUTH10A") => Self::OauthBearer,
            _ if is("NTLM") => Self::Ntlm,
            _ if is("EXTERNAL") => Self::External,
            _ if name.get(..6).is_some_and(|head| head.eq_ignore_ascii_case(b"SCRAM-")) => Self::Scram,
            _ => Self::Other,
        }
    }

    /// The account in one message of the client's, the `nth`, if it has one.
    pub(super) fn account(self, nth: u8, message: &[u8]) -> Option<Account> {
        match self {
            Self::Plain => plain(message),
            Self::Login if nth == 0 => Account::new(message),
            Self::CramMd5 => cram_md5(message),
            Self::DigestMd5 => digest_md5(message),
            Self::Scram => scram(message),
            Self::Xoauth2 => xoauth2(message),
            Self::OauthBearer => oauth_bearer(message),
            Self::Ntlm => ntlm(message),
            Self::External if nth == 0 => Account::new(message),
            Self::Login | Self::External | Self::Other => None,
        }
    }

    /// Whether the server has all that it needs to judge when it has that message.
    pub(super) fn is_complete(self, nth: u8, message: &[u8]) -> bool {
        match self {
            Self::Login | Self::Scram => nth >= 1,
            Self::Ntlm => ntlm_type(message) == Some(3),
            _ => true,
        }
    }

    /// Whether `challenge` says of complete credentials that they were right, and asks for no more than a nod.
    pub(super) fn is_assent(self, challenge: &[u8]) -> bool {
        match self {
            Self::Scram => challenge.starts_with(b"v="),
            Self::DigestMd5 => challenge.starts_with(b"rspauth="),
            _ => false,
        }
    }
}

/// With fewer than two NULs, nobody knows which part is the password.
fn plain(message: &[u8]) -> Option<Account> {
    let mut parts = message.split(|&byte| byte == 0);
    let (_, authcid, _) = (parts.next()?, parts.next()?, parts.next()?);
    Account::new(authcid)
}

fn cram_md5(message: &[u8]) -> Option<Account> {
    let (name, digest) = message.split_at_checked(message.len().checked_sub(32)?)?;
    let name = name.strip_suffix(b" ")?;
    digest.iter().all(u8::is_ascii_hexdigit).then(|| Account::new(name))?
}

fn digest_md5(mut message: &[u8]) -> Option<Account> {
    loop {
        let equals = message.iter().position(|&byte| byte == b'=')?;
        // Empty elements of the list may stand before it.
        let key = message.get(..equals)?.rsplit(|&byte| byte == b',').next()?.trim_ascii();
        let rest = message.get(equals + 1..)?.trim_ascii_start();
        let (value, behind) = directive(rest);
        if key.eq_ignore_ascii_case(b"username") {
            return Account::new(&meant(value));
        }
        let comma = behind.iter().position(|&byte| byte == b',')?;
        message = behind.get(comma + 1..)?;
    }
}

/// The value of a directive, without its quotes, and what stands behind it.
fn directive(rest: &[u8]) -> (&[u8], &[u8]) {
    let quoted = rest.strip_prefix(b"\"");
    let (value, mut escaped) = (quoted.unwrap_or(rest), false);
    let ends = |&byte: &u8| match quoted {
        None => byte == b',',
        Some(_) => {
            let ends = byte == b'"' && !escaped;
            escaped = byte == b'\\' && !escaped;
            ends
        }
    };
    let end = value.iter().position(ends).unwrap_or(value.len());
    value.split_at_checked(end).unwrap_or((value, b""))
}

/// What stands in quotes, as it is meant: a backslash goes before a character that is one of the text.
fn meant(value: &[u8]) -> Vec<u8> {
    let mut escaped = false;
    let kept = value.iter().filter(|&&byte| {
        escaped = byte == b'\\' && !escaped;
        !escaped
    });
    kept.copied().collect()
}

fn scram(message: &[u8]) -> Option<Account> {
    let mut fields = message.split(|&byte| byte == b',');
    if !is_binding(fields.next()?) {
        return None;
    }
    let _authzid = fields.next()?;
    let name = fields.find_map(|field| field.strip_prefix(b"n="))?;
    Account::new(&unescape(name))
}

/// Whether that is how a GS2 header begins (RFC 5801 §4).
fn is_binding(flag: &[u8]) -> bool {
    matches!(flag, b"n" | b"y") || flag.starts_with(b"p=")
}

/// A saslname as it is meant: `=2C` is a comma, `=3D` an equals sign (RFC 5801 §4).
fn unescape(name: &[u8]) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::with_capacity(name.len()), name);
    while let Some((&first, behind)) = rest.split_first() {
        let (byte, behind) = match (first, behind) {
            (b'=', [b'2', b'C' | b'c', behind @ ..]) => (b',', behind),
            (b'=', [b'3', b'D' | b'd', behind @ ..]) => (b'=', behind),
            _ => (first, behind),
        };
        out.push(byte);
        rest = behind;
    }
    out
}

fn xoauth2(message: &[u8]) -> Option<Account> {
    message.split(|&byte| byte == 1).find_map(|field| field.strip_prefix(b"user=")).and_then(Account::new)
}

fn oauth_bearer(message: &[u8]) -> Option<Account> {
    let mut fields = message.split(|&byte| byte == 1).next()?.split(|&byte| byte == b',');
    if !is_binding(fields.next()?) {
        return None;
    }
    Account::new(&unescape(fields.next()?.strip_prefix(b"a=")?))
}

const NTLM: &[u8] = b"NTLMSSP\0";

fn ntlm_type(message: &[u8]) -> Option<u32> {
    let at = message.starts_with(NTLM).then_some(NTLM.len())?;
    message.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

/// The user name of the third message, without its domain (MS-NLMP §2.2.1.3): length, room, offset; and whether all
/// strings are UTF-16 is a flag further on, which the oldest clients leave out.
fn ntlm(message: &[u8]) -> Option<Account> {
    const UNICODE: u8 = 1;
    if ntlm_type(message)? != 3 {
        return None;
    }
    let length = usize::from(u16::from_le_bytes(*message.get(36..)?.first_chunk()?));
    let offset = usize::try_from(u32::from_le_bytes(*message.get(40..)?.first_chunk()?)).ok()?;
    let name = message.get(offset..offset.checked_add(length)?)?;
    if message.get(60).is_none_or(|flags| flags & UNICODE == 0) {
        return Account::new(name);
    }
    let units = name.as_chunks().0.iter().map(|unit| u16::from_le_bytes(*unit));
    let name: String = char::decode_utf16(units).map(|read| read.unwrap_or(char::REPLACEMENT_CHARACTER)).collect();
    Account::new(name.as_bytes())
}
