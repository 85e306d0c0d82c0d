//! What is remembered as a line of text: words parted by blanks, so that it can be kept in a file, in Valkey, where a Lua
//! script reads and writes the same line, and be looked at by people.
//!
//! A line begins with the number of its form. Whoever reads it answers `None` to a form that it does not know, and to
//! anything else that it does not understand.

use std::fmt::{Display, Write};
use std::str::FromStr;

/// The form of all lines here.
const FORM: u32 = 1;

/// Something that can be written as a line and read back as it was.
pub trait Record: Sized {
    /// Writes it.
    fn line(&self) -> String;

    /// Reads what [`Self::line`] wrote.
    fn read(line: &str) -> Option<Self>;
}

/// Writes a line.
#[derive(Debug)]
pub(crate) struct Writer(String);

impl Writer {
    pub(crate) fn new() -> Self {
        Self(FORM.to_string())
    }

    /// One word; it must not be empty and hold no blank.
    pub(crate) fn word(mut self, word: impl Display) -> Self {
        // A String takes everything.
        let _ = write!(self.0, " {word}");
        self
    }

    /// Words of one list, as one word: `-` if there are none.
    pub(crate) fn list(self, words: impl IntoIterator<Item = impl Display>) -> Self {
        let mut list = String::new();
        for word in words {
            let comma = if list.is_empty() { "" } else { "," };
            let _ = write!(list, "{comma}{word}");
        }
        self.word(if list.is_empty() { "-" } else { &list })
    }

    pub(crate) fn end(self) -> String {
        self.0
    }
}

/// Reads a line, word by word.
#[derive(Debug)]
pub(crate) struct Reader<'a>(&'a str);

impl<'a> Reader<'a> {
    /// None if the line is of another form.
    pub(crate) fn new(line: &'a str) -> Option<Self> {
        let mut reader = Self(line);
        (reader.next::<u32>()? == FORM).then_some(reader)
    }

    pub(crate) fn word(&mut self) -> Option<&'a str> {
        let (word, rest) = self.0.split_once(' ').unwrap_or((self.0, ""));
        self.0 = rest;
        (!word.is_empty()).then_some(word)
    }

    pub(crate) fn next<T: FromStr>(&mut self) -> Option<T> {
        self.word()?.parse().ok()
    }

    /// None if one of them cannot be read.
    pub(crate) fn list<T>(&mut self, read: impl Fn(&str) -> Option<T>) -> Option<Vec<T>> {
        match self.word()? {
            "-" => Some(Vec::new()),
            words => words.split(',').map(read).collect(),
        }
    }

    /// All that is left.
    pub(crate) fn rest(self) -> &'a str {
        self.0
    }
}
