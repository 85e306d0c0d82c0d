//! The rows of the matrix: what a client sends that somebody, somewhere, took for the end of a message.

use std::ops::Range;

/// Stands in the bytes of a row where the name of the cell is to be: four characters.
const CELL: &str = "____";

/// The end of mail data that counts.
const END: &[u8] = b".\r\n";

/// One row: what is sent in all its columns.
pub struct Row {
    /// What it is about.
    pub name: String,
    /// What is sent.
    pub sent: Sent,
}

/// What is sent once the first recipient is accepted.
pub enum Sent {
    /// Mail data of so many transactions, by DATA and by BDAT.
    Messages(Vec<MailData>),
    /// These bytes, by BDAT only, and what they are answered with.
    Chunks(Vec<u8>, Vec<Answer>),
}

/// Mail data as it goes over the wire.
pub struct MailData {
    /// All of it, with the end, if it has one.
    pub wire: Vec<u8>,
    /// Which part of it is sent byte by byte, each only when the one before has been read.
    pub slowly: Range<usize>,
    /// Where the middle of the odd part is.
    pub middle: usize,
    /// Where a transaction begins, if the odd part is an end.
    pub behind: usize,
}

/// What a command is to be answered with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// A code of this class.
    Class(u16),
    /// What is said to a message: 250, or the MTA does not want it.
    Verdict,
}

/// When a piece is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum When {
    /// Together with the one before.
    AtOnce,
    /// When what was sent before has been read.
    Read,
    /// When so many replies have come.
    Answered(usize),
    /// When the server has had the time for a reply, should it take what was sent before for something to reply to.
    HeardOut,
}

/// What is sent in one cell, and what is to come back.
pub struct Play {
    /// In this order.
    pub pieces: Vec<(Vec<u8>, When)>,
    /// In this order, and nothing else.
    pub answers: Vec<Answer>,
    /// Whether the client has to close for this to end.
    pub hangs: bool,
    patient: bool,
}

impl Row {
    /// How this row is played by DATA, whose 354 has come; nothing if it is for BDAT only. Who is `patient` sends no command
    /// before it has the answer to what was before; nor, unless a gate is there to read it, what could be taken for one.
    pub fn by_data(&self, cell: &str, patient: bool, through_a_gate: bool) -> Option<Play> {
        let Sent::Messages(messages) = &self.sent else { return None };
        let mut play = Play::new(patient);
        for (at, message) in messages.iter().enumerate() {
            if at > 0 {
                play.commands(&format!("{}DATA\r\n", envelope("second")), &[2, 2, 3]);
            }
            let MailData { wire, slowly, behind, .. } = message;
            let when = play.next_command();
            play.send(wire[..slowly.start].to_vec(), when);
            play.pieces.extend(wire[slowly.clone()].iter().map(|&byte| (vec![byte], When::Read)));
            play.send(wire[slowly.end..(*behind).max(slowly.end)].to_vec(), When::AtOnce);
            for line in wire[(*behind).max(slowly.end)..].split_inclusive(|&byte| byte == b'\n') {
                let command =
                    [&b"MAIL "[..], b"RCPT ", b"DATA\r\n", b"Subject: "].iter().any(|word| line.starts_with(word));
                play.send(
                    line.to_vec(),
                    if patient && !through_a_gate && command { When::HeardOut } else { When::AtOnce },
                );
            }
            play.hangs = !message.ends();
            play.answers.extend(message.ends().then_some(Answer::Verdict));
        }
        Some(play.ended(cell))
    }

    /// How it is played by BDAT: each message in one chunk, or the first in two, if that can be.
    pub fn by_bdat(&self, cell: &str, in_two: bool) -> Option<Play> {
        let mut play = Play::new(false);
        match &self.sent {
            Sent::Chunks(..) if in_two => return None,
            Sent::Chunks(bytes, answers) => {
                play.send(bytes.clone(), When::AtOnce);
                play.answers.clone_from(answers);
                // Behind a DATA that is refused, nobody may say anything before it has the refusal.
                play.hangs = answers.last() == Some(&Answer::Class(5));
            }
            Sent::Messages(messages) => {
                for (at, message) in messages.iter().enumerate() {
                    if at > 0 {
                        play.commands(&envelope("second"), &[2, 2]);
                    }
                    let mut rest = message.content();
                    if in_two && at == 0 {
                        // An empty chunk that is not the last is an error to Postfix.
                        let (front, back) =
                            rest.split_at_checked(message.middle).filter(|(front, _)| !front.is_empty())?;
                        play.send([format!("BDAT {}\r\n", front.len()).as_bytes(), front].concat(), When::AtOnce);
                        play.answers.push(Answer::Class(2));
                        rest = back;
                    }
                    play.send([format!("BDAT {} LAST\r\n", rest.len()).as_bytes(), rest].concat(), When::AtOnce);
                    play.answers.push(Answer::Verdict);
                }
            }
        }
        Some(play.ended(cell))
    }

    /// What the first message is for everybody, once it is free of all that is odd and its dots are taken out; nothing
    /// if it has no header, to which an MTA adds.
    pub fn content(&self, cell: &str, single_dots_stay: bool) -> Option<Vec<u8>> {
        let Sent::Messages(messages) = &self.sent else { return None };
        let message = messages.first().filter(|message| message.wire.starts_with(&header()))?;
        let content = told_plainly(message.wire.strip_suffix(END)?, single_dots_stay);
        Some(named(&content, cell))
    }
}

impl MailData {
    fn ends(&self) -> bool {
        self.wire == END || self.wire.ends_with(b"\r\n.\r\n")
    }

    /// What a chunk has in it: the same without the end.
    fn content(&self) -> &[u8] {
        if self.ends() { &self.wire[..self.wire.len() - END.len()] } else { &self.wire }
    }
}

impl Play {
    fn new(patient: bool) -> Self {
        Self { pieces: Vec::new(), answers: Vec::new(), hangs: false, patient }
    }

    fn send(&mut self, bytes: Vec<u8>, when: When) {
        self.pieces.push((bytes, when));
    }

    /// When the client's next command may be sent.
    fn next_command(&self) -> When {
        if self.patient { When::Answered(self.answers.len()) } else { When::AtOnce }
    }

    /// Commands, one a line, and the classes of their answers.
    fn commands(&mut self, lines: &str, classes: &[u16]) {
        for (line, &class) in lines.split_inclusive('\n').zip(classes) {
            self.send(line.as_bytes().to_vec(), self.next_command());
            self.answers.push(Answer::Class(class));
        }
    }

    /// With QUIT behind it, and the name of the cell in it.
    fn ended(mut self, cell: &str) -> Self {
        if !self.hangs {
            self.commands("QUIT\r\n", &[2]);
        }
        // What need not come by itself goes together.
        let mut pieces: Vec<(Vec<u8>, When)> = Vec::new();
        for (bytes, when) in self.pieces {
            match pieces.last_mut() {
                Some((last, _)) if when == When::AtOnce => last.extend_from_slice(&bytes),
                _ => pieces.push((bytes, when)),
            }
        }
        pieces.retain(|(bytes, _)| !bytes.is_empty());
        pieces.iter_mut().for_each(|(bytes, _)| *bytes = named(bytes, cell));
        Self { pieces, ..self }
    }
}

/// MAIL and RCPT.
pub fn envelope(who: &str) -> String {
    format!("MAIL FROM:<{who}.{CELL}@example.org>\r\nRCPT TO:<alice@example.test>\r\n")
}

/// The bytes with the name of the cell in them.
pub fn named(bytes: &[u8], cell: &str) -> Vec<u8> {
    let mut named = bytes.to_vec();
    for at in memchr::memmem::find_iter(bytes, CELL) {
        named[at..at + CELL.len()].copy_from_slice(cell.as_bytes());
    }
    named
}

/// Mail data without its end, line by line: each ends in CRLF, a CR or NUL elsewhere is a blank, and the dot that a client
/// puts before its lines that begin with one is taken out.
fn told_plainly(wire: &[u8], single_dots_stay: bool) -> Vec<u8> {
    let (mut content, mut behind_crlf) = (Vec::new(), true);
    for line in wire.split_inclusive(|&byte| byte == b'\n') {
        let text = line.strip_suffix(b"\n").unwrap_or(line);
        let crlf = text.ends_with(b"\r");
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        let text = match text {
            // A line that is not behind a CRLF is no line to a client that stuffs, and may well have a lone dot.
            [b'.', b'.', ..] => &text[1..],
            [b'.'] | [b'.', b'\r' | 0, ..] => text,
            [b'.', ..] if behind_crlf && !single_dots_stay => &text[1..],
            _ => text,
        };
        content.extend(text.iter().map(|&byte| if matches!(byte, b'\r' | 0) { b' ' } else { byte }));
        content.extend_from_slice(b"\r\n");
        behind_crlf = crlf;
    }
    content
}

/// All rows, in the order of the table.
pub fn all() -> Vec<Row> {
    let mut rows = Vec::new();
    for (before, first) in LINE_ENDS {
        for (after, second) in LINE_ENDS {
            // Else it is the end.
            if !(first.ends_with(CRLF) && second.starts_with(CRLF)) {
                rows.push(smuggling(format!("{before} . {after}"), [first, b".", second].concat()));
            }
        }
    }
    for (name, odd) in SEPARATORS {
        rows.push(smuggling(format!("{name} . {name}"), [odd, b".", odd].concat()));
        rows.push(smuggling(format!("{name} . CRLF"), [odd, b".", CRLF].concat()));
        rows.push(smuggling(format!("CRLF . {name}"), [CRLF, b".", odd].concat()));
    }
    for (name, odd) in AROUND_THE_DOT {
        rows.push(smuggling((*name).to_owned(), odd.to_vec()));
    }
    rows.extend(early());
    rows.extend(long());
    rows.extend(slow());
    rows.extend(honest());
    rows.extend(chunks());
    rows
}

const CRLF: &[u8] = b"\r\n";

/// What somebody takes for the end of a line.
const LINE_ENDS: [(&str, &[u8]); 7] = [
    ("CRLF", CRLF),
    ("LF", b"\n"),
    ("CR", b"\r"),
    ("CR CRLF", b"\r\r\n"),
    ("LF CR", b"\n\r"),
    ("NUL CRLF", b"\0\r\n"),
    ("CR NUL LF", b"\r\0\n"),
];

/// What ends a line in some programming languages.
const SEPARATORS: [(&str, &[u8]); 5] = [
    ("VT", b"\x0b"),
    ("FF", b"\x0c"),
    ("NEL (8-bit)", b"\x85"),
    ("NEL (UTF-8)", b"\xc2\x85"),
    ("U+2028", b"\xe2\x80\xa8"),
];

/// What is taken out, or trimmed, by some.
const AROUND_THE_DOT: &[(&str, &[u8])] = &[
    ("CRLF NUL . CRLF", b"\r\n\0.\r\n"),
    ("CRLF . NUL NUL CRLF", b"\r\n.\0\0\r\n"),
    ("LF NUL . NUL LF", b"\n\0.\0\n"),
    ("CRLF . blank CRLF", b"\r\n. \r\n"),
    ("CRLF . tab CRLF", b"\r\n.\t\r\n"),
    ("CRLF blank . CRLF", b"\r\n .\r\n"),
    ("LF . blank LF", b"\n. \n"),
    ("CRLF . DEL CRLF", b"\r\n.\x7f\r\n"),
    ("CRLF . EOF (SUB) CRLF", b"\r\n.\x1a\r\n"),
    ("CRLF 8-bit dot CRLF", b"\r\n\xae\r\n"),
    ("CRLF overlong dot CRLF", b"\r\n\xc0\xae\r\n"),
    ("CRLF fullwidth dot CRLF", b"\r\n\xef\xbc\x8e\r\n"),
    ("CRLF . . CRLF", b"\r\n..\r\n"),
    ("LF . . LF", b"\n..\n"),
    ("LF . . CRLF", b"\n..\r\n"),
    ("CRLF . . LF", b"\r\n..\n"),
    ("CR . . CR", b"\r..\r"),
    ("LF LF . LF", b"\n\n.\n"),
    ("LF . LF . LF", b"\n.\n.\n"),
    ("CRLF . LF . CRLF", b"\r\n.\n.\r\n"),
    ("LF . CRLF .x CRLF", b"\n.\r\n.x\r\n"),
];

fn header() -> Vec<u8> {
    b"From: Bob <bob@example.org>\r\nTo: alice@example.test\r\nSubject: a letter\r\n\
      Date: Sun, 22 Nov 2026 02:20:00 +0000\r\nMessage-ID: <first.____@example.org>\r\n\r\n"
        .to_vec()
}

/// What follows the odd part: a transaction, if that was the end, and text, if it was not.
fn transaction() -> Vec<u8> {
    format!("{}DATA\r\nSubject: smuggled\r\n\r\nNobody sent this.\r\n", envelope("smuggled")).into_bytes()
}

/// A letter with `odd` in the middle, and a transaction behind it.
fn smuggling(name: String, odd: Vec<u8>) -> Row {
    smuggling_behind(name, &[header(), b"Hello.".to_vec()].concat(), &odd)
}

fn smuggling_behind(name: String, before: &[u8], odd: &[u8]) -> Row {
    let wire = [before, odd, &transaction(), END].concat();
    let middle = before.len() + odd.len().div_ceil(2);
    let behind = before.len() + odd.len();
    Row { name, sent: Sent::Messages(vec![MailData { wire, slowly: 0..0, middle, behind }]) }
}

/// The odd part comes first of all.
fn early() -> Vec<Row> {
    [
        ("first: . LF", &b".\n"[..]),
        ("first: . CR", b".\r"),
        ("first: . CR CRLF", b".\r\r\n"),
        ("first: . NUL CRLF", b".\0\r\n"),
        ("first: LF . LF", b"\n.\n"),
        ("first: LF . CRLF", b"\n.\r\n"),
        ("first: NUL . CRLF", b"\0.\r\n"),
        ("first: . . CRLF", b"..\r\n"),
        ("first: . . LF", b"..\n"),
        ("first: .x CRLF", b".x\r\n"),
    ]
    .map(|(name, odd)| smuggling_behind(name.to_owned(), b"", odd))
    .into()
}

/// The odd part comes behind a long line, or where a buffer ends.
fn long() -> Vec<Row> {
    let mut rows = Vec::new();
    for (length, name) in [(998, "998 bytes"), (999, "999 bytes"), (64 * 1024, "64 KiB")] {
        for (what, odd) in [("LF . LF", &b"\n.\n"[..]), ("CRLF . CR CRLF", b"\r\n.\r\r\n"), ("CR . CR", b"\r.\r")] {
            let before = [header(), vec![b'x'; length]].concat();
            rows.push(smuggling_behind(format!("line of {name}, {what}"), &before, odd));
        }
    }
    for (what, odd) in [("LF . LF", &b"\n.\n"[..]), ("LF . CRLF", b"\n.\r\n"), ("CRLF . LF", b"\r\n.\n")] {
        for inside in 1..odd.len() {
            let mut before = header();
            while before.len() + 100 < 16 * 1024 {
                before.extend_from_slice(&[&[b'x'; 70][..], CRLF].concat());
            }
            before.resize(16 * 1024 - inside, b'x');
            rows.push(smuggling_behind(format!("{what}, cut behind byte {inside} by 16 KiB"), &before, odd));
        }
    }
    rows
}

/// Each byte of the odd part comes by itself.
fn slow() -> Vec<Row> {
    let odd: [(&str, &[u8]); 8] = [
        ("LF . LF", b"\n.\n"),
        ("LF . CRLF", b"\n.\r\n"),
        ("CRLF . LF", b"\r\n.\n"),
        ("CR . CR", b"\r.\r"),
        ("CRLF . CR CRLF", b"\r\n.\r\r\n"),
        ("CRLF . NUL CRLF", b"\r\n.\0\r\n"),
        ("CRLF . . CRLF", b"\r\n..\r\n"),
        ("CRLF .x CRLF", b"\r\n.x\r\n"),
    ];
    let later = odd
        .into_iter()
        .map(|(name, odd)| (format!("byte by byte: {name}"), [header(), b"Hello.".to_vec()].concat(), odd));
    let first: [(&str, &[u8]); 3] = [(". . CRLF", b"..\r\n"), (". LF", b".\n"), (".x CRLF", b".x\r\n")];
    let first = first.into_iter().map(|(name, odd)| (format!("byte by byte, first: {name}"), Vec::new(), odd));
    later
        .chain(first)
        .map(|(name, before, odd)| {
            let mut row = smuggling_behind(name, &before, odd);
            if let Sent::Messages(messages) = &mut row.sent {
                messages[0].slowly = before.len()..before.len() + odd.len();
            }
            row
        })
        .collect()
}

/// Nothing is smuggled: what must go through, and what must not end.
fn honest() -> Vec<Row> {
    let plain =
        |wire: Vec<u8>| MailData { middle: wire.len().saturating_sub(5), behind: wire.len(), wire, slowly: 0..0 };
    let slow = |wire: Vec<u8>, last: usize| {
        let all = wire.len();
        MailData { slowly: all - last..all, ..plain(wire) }
    };
    let letter = |body: &[u8]| [&header(), body, END].concat();
    let dots = b".\r\n..\r\n...\r\n. x\r\n..x\r\nx.\r\n";
    let stuffed = b"..\r\n...\r\n....\r\n.. x\r\n...x\r\nx.\r\n";
    let some = b"..\r\n...\r\n";
    let one = |name: &str, message: MailData| Row { name: name.to_owned(), sent: Sent::Messages(vec![message]) };
    vec![
        one("honest: a letter", plain(letter(b"Hello.\r\n"))),
        one("honest: nothing but the end", plain(END.to_vec())),
        one("honest: an empty line", plain(b"\r\n.\r\n".to_vec())),
        one("honest: a header alone", plain(letter(b""))),
        one("honest: the body is a dot", plain(letter(b"..\r\n"))),
        one("honest: the first line is a dot", plain(b"..\r\n.\r\n".to_vec())),
        one("honest: the last line is a dot", plain(letter(b"Hello.\r\n..\r\n"))),
        one("honest: lines of dots, stuffed", plain(letter(stuffed))),
        one(
            "honest: lines of dots, stuffed, in LF",
            plain(letter(&stuffed.iter().filter(|&&byte| byte != b'\r').copied().chain(*b"x\r\n").collect::<Vec<_>>())),
        ),
        one(
            "honest: lines of dots by a client that stuffs none, in LF",
            plain(letter(
                &[&b"\n"[..], &dots.iter().filter(|&&byte| byte != b'\r').copied().collect::<Vec<_>>(), b"x\r\n"]
                    .concat(),
            )),
        ),
        one("honest: every byte of the end by itself", slow(letter(b"Hello.\r\n"), 5)),
        one("honest: every byte of nothing but the end by itself", slow(END.to_vec(), 3)),
        one("honest: every byte of dots and end by itself", slow(letter(some), some.len() + 3)),
        Row {
            name: "honest: two letters in one go".to_owned(),
            sent: Sent::Messages(vec![plain(letter(b"Hello.\r\n")), plain(letter(b"Hello again.\r\n"))]),
        },
        Row {
            name: "honest: two letters in one go, the first of them empty".to_owned(),
            sent: Sent::Messages(vec![plain(END.to_vec()), plain(letter(b"Hello again.\r\n"))]),
        },
        Row {
            name: "honest: two letters, the ends byte by byte".to_owned(),
            sent: Sent::Messages(vec![slow(letter(b"Hello.\r\n"), 5), slow(letter(b"Hello again.\r\n"), 5)]),
        },
        Row {
            name: "honest: CR CRLF . CRLF is an end".to_owned(),
            sent: Sent::Messages(vec![plain(letter(b"Hello.\r\r\n")), plain(letter(b"Hello again.\r\n"))]),
        },
        Row {
            name: "honest: NUL CRLF . CRLF is an end".to_owned(),
            sent: Sent::Messages(vec![plain(letter(b"Hello.\0\r\n")), plain(letter(b"Hello again.\r\n"))]),
        },
        one("no end: LF . LF", plain([&header(), &b"Hello.\n.\n"[..]].concat())),
        one("no end: LF . CRLF", plain([&header(), &b"Hello.\n.\r\n"[..]].concat())),
        one("no end: CRLF . LF", plain([&header(), &b"Hello.\r\n.\n"[..]].concat())),
        one("no end: CR . CR", plain([&header(), &b"Hello.\r.\r"[..]].concat())),
        one("no end: CRLF . CR", plain([&header(), &b"Hello.\r\n.\r"[..]].concat())),
        one("no end: CRLF .", plain([&header(), &b"Hello.\r\n."[..]].concat())),
    ]
}

/// What only BDAT can do.
fn chunks() -> Vec<Row> {
    use Answer::{Class, Verdict};
    let text = [&header(), &b"Hello.\r\n"[..]].concat();
    let size = text.len();
    let chunk = |command: String| [command.as_bytes(), b"\r\n", &text].concat();
    let next = [envelope("second").as_bytes(), &chunk(format!("BDAT {size} LAST"))].concat();
    let row = |name: &str, bytes: Vec<u8>, answers: &[Answer]| Row {
        name: name.to_owned(),
        sent: Sent::Chunks(bytes, answers.to_vec()),
    };
    vec![
        row(
            "BDAT: an empty last chunk",
            [chunk(format!("BDAT {size}")), b"BDAT 0 LAST\r\n".to_vec()].concat(),
            &[Class(2), Verdict],
        ),
        row(
            "BDAT: the chunk ends in front of a transaction",
            [chunk(format!("BDAT {size} LAST")), next.clone()].concat(),
            &[Verdict, Class(2), Class(2), Verdict],
        ),
        row(
            "BDAT: a transaction inside the chunk",
            [format!("BDAT {} LAST\r\n", size + next.len() + 5).as_bytes(), &text, b"\r\n.\r\n", &next].concat(),
            &[Verdict],
        ),
        row("BDAT: leading zeros", chunk(format!("BDAT 000{size} LAST")), &[Verdict]),
        row("BDAT: in small letters, with blanks", chunk(format!("bdat   {size}   last ")), &[Verdict]),
        row(
            "BDAT: DATA behind a chunk",
            [chunk(format!("BDAT {size}")), b"DATA\r\n".to_vec()].concat(),
            &[Class(2), Class(5)],
        ),
        row(
            "BDAT: RSET behind a chunk, and a letter",
            [chunk(format!("BDAT {size}")), b"RSET\r\n".to_vec(), next].concat(),
            &[Class(2), Class(2), Class(2), Class(2), Verdict],
        ),
    ]
}
