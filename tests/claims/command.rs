use gatepost::smtp::command::{Command, Envelope};
use gatepost::smtp::path::{Name, name};

/// Every line is a command; blanks around it and the case of its verb change nothing; what a well-formed command holds
/// can be written out again and is read as the same, and none of it can end a line at a backend.
pub fn command(input: &[u8]) {
    let command = Command::parse(input);
    let padded = [b" \t", input, b"\t "].concat();
    assert_eq!(Command::parse(&padded), command);
    for other in [input.to_ascii_lowercase(), input.to_ascii_uppercase()] {
        assert_eq!(Command::parse(&other).verb(), command.verb());
    }
    if let Some(written) = written(&command) {
        assert_eq!(Command::parse(&written), command, "{}", written.escape_ascii());
        assert!(!written.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t'), "{}", written.escape_ascii());
    }
    named(input);
}

/// A well-formed command, as we would write it.
fn written(command: &Command<'_>) -> Option<Vec<u8>> {
    let verb = command.verb().as_str().as_bytes();
    let parts: Vec<&[u8]> = match *command {
        Command::Mail(Envelope { path, tail }) => {
            parameters(&Envelope { path, tail });
            vec![verb, b" FROM:<", path.mailbox, b"> ", tail]
        }
        Command::Rcpt(Envelope { path, tail }) => {
            parameters(&Envelope { path, tail });
            assert!(!path.mailbox.is_empty());
            vec![verb, b" TO:<", path.mailbox, b"> ", tail]
        }
        Command::Bdat(chunk) => {
            assert!(i64::try_from(chunk.size).is_ok());
            return Some(chunk.to_string().into_bytes());
        }
        Command::Auth(start) => {
            let printed = format!("{start:?}");
            assert_eq!(printed.contains('…'), start.initial.is_some());
            vec![verb, b" ", start.mechanism, b" ", start.initial.unwrap_or_default()]
        }
        Command::Vrfy(text) | Command::Expn(text) | Command::Help(text) | Command::Etrn(text) => vec![verb, b" ", text],
        Command::Data | Command::Rset | Command::Noop | Command::Quit | Command::StartTls => vec![verb],
        Command::Helo { .. }
        | Command::Ehlo { .. }
        | Command::Xclient(_)
        | Command::Xforward(_)
        | Command::Malformed { .. }
        | Command::Unknown { .. } => return None,
    };
    Some(parts.concat())
}

/// The parameters are the words of the tail, cut at their first `=`.
fn parameters(envelope: &Envelope<'_>) {
    let mut words = envelope.tail.split(|byte| b" \t".contains(byte)).filter(|word| !word.is_empty());
    for (keyword, value) in envelope.parameters() {
        let word = match value {
            Some(value) => [keyword, b"=", value].concat(),
            None => keyword.to_vec(),
        };
        assert_eq!(words.next(), Some(word.as_slice()));
        assert!(!keyword.is_empty() && value != Some(b""));
    }
    assert_eq!(words.next(), None);
}

/// A name is read the same with blanks around it, and a valid one holds nothing that could harm a line.
fn named(text: &[u8]) {
    let padded = [b"\t", text, b" "].concat();
    assert_eq!(name(&padded), name(text));
    match name(text) {
        Name::Domain(domain) => assert!(domain.contains('.') && harmless(domain)),
        Name::SingleLabel(label) => assert!(!label.trim_end_matches('.').contains('.') && harmless(label)),
        Name::BareAddress(ip) => assert_eq!(name(ip.to_string().as_bytes()), Name::BareAddress(ip)),
        Name::Literal(ip) => {
            let tag = if ip.is_ipv6() { "IPv6:" } else { "" };
            assert_eq!(name(format!("[{tag}{ip}]").as_bytes()), Name::Literal(ip));
        }
        Name::BadLiteral(bad) => assert!(bad.starts_with(b"[")),
        Name::Invalid(bad) => assert!(!bad.is_empty()),
        Name::Missing => assert!(text.iter().all(|byte| b" \t".contains(byte))),
    }
}

fn harmless(name: &str) -> bool {
    name.len() <= 256 && name.chars().all(|c| c.is_alphanumeric() || "-.".contains(c))
}
