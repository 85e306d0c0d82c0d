//! What clients say, and which reply each waits for.

use serde::{Deserialize, Serialize};

/// What a client comes for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Script {
    /// Greeting, EHLO, QUIT.
    Visit,
    /// One message of so many bytes, by DATA, one command after the other.
    Message(usize),
    /// The same by one BDAT.
    Chunk(usize),
    /// So many bytes behind STARTTLS, as nobody can look into them.
    Opaque(usize),
    /// Speaks before it was greeted, as guessers of passwords do, and looks what comes of it.
    Bot,
}

/// What one says, and the code of the reply that it then waits for; none where the connection is to end.
pub(super) struct Step {
    pub(super) say: Vec<u8>,
    pub(super) code: &'static [u8],
}

/// The reply of the sink to what stands for TLS.
pub(super) const DONE: &[u8] = b"done";

impl Script {
    /// Whether the client speaks first, and takes any reply.
    pub(super) fn is_bot(self) -> bool {
        self == Self::Bot
    }

    /// The whole dialogue. It ends with the server's closing.
    pub(super) fn steps(self) -> Vec<Step> {
        let step = |say: &[u8], code| Step { say: say.to_vec(), code };
        let mut steps = vec![step(b"", b"220"), step(b"EHLO client.test\r\n", b"250")];
        let envelope = |size: usize| {
            let mail = format!("MAIL FROM:<bob@example.org> SIZE={size}\r\n");
            [step(mail.as_bytes(), b"250"), step(b"RCPT TO:<alice@example.test>\r\n", b"250")]
        };
        match self {
            Self::Bot => return vec![step(b"EHLO ylmf-pc\r\n", b"")],
            Self::Visit => {}
            Self::Message(size) => {
                steps.extend(envelope(size));
                steps.push(step(b"DATA\r\n", b"354"));
                let mut body = text(size);
                body.extend(b".\r\n");
                steps.push(Step { say: body, code: b"250" });
            }
            Self::Chunk(size) => {
                steps.extend(envelope(size));
                let mut chunk = format!("BDAT {size} LAST\r\n").into_bytes();
                chunk.extend(text(size));
                steps.push(Step { say: chunk, code: b"250" });
            }
            Self::Opaque(size) => {
                steps.push(step(b"STARTTLS\r\n", b"220"));
                let mut bytes = (size as u64).to_be_bytes().to_vec();
                bytes.extend(text(size));
                // Nobody can say QUIT there: the client closes.
                steps.push(Step { say: bytes, code: DONE });
                return steps;
            }
        }
        steps.push(step(b"QUIT\r\n", b"221"));
        steps
    }
}

/// So many bytes of lines, the last one whole; no line begins with a dot.
fn text(size: usize) -> Vec<u8> {
    const LINE: &[u8] = b"Mail data is lines of text, seldom longer than these seventy-eight bytes are.\r\n";
    let mut text: Vec<u8> = LINE.iter().copied().cycle().take(size.saturating_sub(2)).collect();
    // A CRLF that was cut would look like one that is bare.
    while text.last().is_some_and(|byte| byte.is_ascii_control()) {
        text.pop();
    }
    text.resize(size.saturating_sub(2), b'x');
    text.extend(b"\r\n");
    text
}

/// How long a whole reply at the beginning is, all its lines together.
pub(super) fn reply_length(heard: &[u8]) -> Option<usize> {
    let mut length = 0;
    for line in heard.split_inclusive(|byte| *byte == b'\n') {
        length += line.len();
        if !line.ends_with(b"\n") {
            return None;
        }
        if line.get(3) != Some(&b'-') {
            return Some(length);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_as_long_as_it_is_to_be_and_made_of_lines() {
        for size in [2, 3, 79, 80, 81, 82, 4096, 10_000] {
            let text = text(size);
            assert_eq!(text.len(), size);
            assert!(text.ends_with(b"\r\n"));
            let bare = text.windows(2).any(|pair| (pair[0] == b'\r') != (pair[1] == b'\n'));
            assert!(!bare && !text.starts_with(b"."), "{size}");
        }
    }

    #[test]
    fn a_message_is_what_its_envelope_says() {
        let steps = Script::Message(4096).steps();
        assert_eq!(steps[2].say, b"MAIL FROM:<bob@example.org> SIZE=4096\r\n");
        assert_eq!(steps[5].say.len(), 4096 + 3);
        assert!(steps[5].say.ends_with(b"\r\n.\r\n"));
        assert!(Script::Chunk(10).steps()[4].say.starts_with(b"BDAT 10 LAST\r\n"));
    }

    #[test]
    fn a_reply_is_whole_with_its_last_line() {
        assert_eq!(reply_length(b"220-a\r\n220 b\r\n250 c\r\n"), Some(14));
        assert_eq!(reply_length(b"220-a\r\n220 b"), None);
        assert_eq!(reply_length(b"220-a\r\n"), None);
        assert_eq!(reply_length(b""), None);
    }
}
