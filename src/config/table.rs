//! One table of the file, and how its values are taken out: typed, placed, and every problem noted.
//!
//! The file is walked by hand rather than deserialized: serde stops at the first wrong type, and whoever mends a file
//! wants to hear of everything at once. A getter that finds a wrong value notes the problem and answers as if the key
//! were absent, so that reading goes on. Keys that nobody asked for are noted when a section's reader returns.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::inspection::{Inspection, Wrong};

/// A table, present or not: an absent one is read like an empty one, and so yields defaults.
pub(super) struct Table<'a> {
    inspection: &'a Inspection,
    path: String,
    span: Option<Range<usize>>,
    entries: Option<&'a DeTable<'a>>,
    asked: Vec<&'static str>,
}

impl<'a> Table<'a> {
    /// Reads the file's outermost table.
    pub(super) fn read_root<T>(
        inspection: &'a Inspection,
        entries: &'a DeTable<'a>,
        read: impl FnOnce(&mut Self) -> T,
    ) -> T {
        Self { inspection, path: String::new(), span: None, entries: Some(entries), asked: Vec::new() }.read(read)
    }

    /// Where problems go.
    pub(super) fn inspection(&self) -> &'a Inspection {
        self.inspection
    }

    /// Where the table stands, if it is in the file.
    pub(super) fn span(&self) -> Option<Range<usize>> {
        self.span.clone()
    }

    /// The value of `key`, as `read` understands it.
    pub(super) fn value<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&DeValue<'_>) -> Result<T, Wrong>,
    ) -> Option<Spanned<T>> {
        let value = self.entry(key)?;
        self.read_one(key, value, read)
    }

    /// The values of `key`: a list, or, for comfort, a single value.
    pub(super) fn list<T>(
        &mut self,
        key: &'static str,
        mut read: impl FnMut(&DeValue<'_>) -> Result<T, Wrong>,
    ) -> Option<Spanned<Vec<Spanned<T>>>> {
        let value = self.entry(key)?;
        let items = match value.get_ref() {
            DeValue::Array(items) => items.iter().filter_map(|item| self.read_one(key, item, &mut read)).collect(),
            _ => self.read_one(key, value, read).into_iter().collect(),
        };
        Some(Spanned::new(value.span(), items))
    }

    /// The table `key`, read by `read`; also where it is absent.
    pub(super) fn section<T>(&mut self, key: &'static str, read: impl FnOnce(&mut Table<'a>) -> T) -> T {
        let value = self.entry(key);
        let entries = value.and_then(|value| self.table_of(key, value));
        self.below(key, entries.and(value).map(Spanned::span), entries).read(read)
    }

    /// Either a single value or a table: `pregreet = "drop"` is short for `pregreet = { action = "drop" }`.
    pub(super) fn short_or_section<S, T>(
        &mut self,
        key: &'static str,
        short: impl FnOnce(&DeValue<'_>) -> Result<S, Wrong>,
        read: impl FnOnce(&mut Table<'a>, Option<Spanned<S>>) -> T,
    ) -> T {
        let value = self.entry(key);
        let (entries, single) = match value.map(|value| (value, value.get_ref())) {
            Some((_, DeValue::Table(entries))) => (Some(entries), None),
            Some((value, _)) => (None, self.read_one(key, value, short)),
            None => (None, None),
        };
        self.below(key, value.map(Spanned::span), entries).read(|table| read(table, single))
    }

    /// The tables of the list `[[key]]`.
    pub(super) fn sections<T>(&mut self, key: &'static str, mut read: impl FnMut(&mut Table<'a>) -> T) -> Vec<T> {
        let Some(value) = self.entry(key) else { return Vec::new() };
        let Some(items) = value.get_ref().as_array() else {
            let wrong = Wrong::new(
                format!("`{}` is a list of tables", self.path_of(key)),
                format!("write [[{0}]] with two brackets for each {0}", self.path_of(key)),
            );
            self.inspection.error(value.span(), wrong);
            // Read all the same, so that what is wrong inside is told too.
            return value
                .get_ref()
                .as_table()
                .map(|table| self.below(key, Some(value.span()), Some(table)).read(read))
                .into_iter()
                .collect();
        };
        let tables = items.iter().filter_map(|item| Some((item.span(), self.table_of(key, item)?)));
        tables.map(|(span, table)| self.below(key, Some(span), Some(table)).read(&mut read)).collect()
    }

    /// A table whose keys the operator chooses.
    pub(super) fn map<T>(
        &mut self,
        key: &'static str,
        mut read: impl FnMut(&DeValue<'_>) -> Result<T, Wrong>,
    ) -> Vec<(Spanned<String>, Spanned<T>)> {
        let Some(value) = self.entry(key) else { return Vec::new() };
        let Some(entries) = self.table_of(key, value) else { return Vec::new() };
        let pairs = entries.iter().filter_map(|(name, value)| {
            let name = Spanned::new(name.span(), name.get_ref().to_string());
            Some((name, self.read_one(key, value, &mut read)?))
        });
        pairs.collect()
    }

    /// Whether `key` is there, right or wrong.
    pub(super) fn has(&self, key: &str) -> bool {
        self.entries.is_some_and(|entries| entries.contains_key(key))
    }

    /// How many items the list `key` has, right or wrong.
    pub(super) fn items(&self, key: &str) -> usize {
        match self.entries.and_then(|entries| entries.get(key)).map(Spanned::get_ref) {
            Some(DeValue::Array(items)) => items.len(),
            Some(_) => 1,
            None => 0,
        }
    }

    /// The path of a key of this table, for messages.
    pub(super) fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    fn read<T>(mut self, read: impl FnOnce(&mut Self) -> T) -> T {
        let result = read(&mut self);
        for key in self.entries.into_iter().flat_map(|entries| entries.keys()) {
            if !self.asked.contains(&key.get_ref().as_ref()) {
                let table = (self.path.as_str(), self.span.clone());
                self.inspection.unknown(table, (key.get_ref(), key.span()), self.asked.clone());
            }
        }
        result
    }

    fn below(&self, key: &str, span: Option<Range<usize>>, entries: Option<&'a DeTable<'a>>) -> Self {
        Self { inspection: self.inspection, path: self.path_of(key), span, entries, asked: Vec::new() }
    }

    fn entry(&mut self, key: &'static str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.asked.push(key);
        self.inspection.know(self.path_of(key));
        self.entries?.get(key)
    }

    fn table_of(&self, key: &str, value: &'a Spanned<DeValue<'a>>) -> Option<&'a DeTable<'a>> {
        let table = value.get_ref().as_table();
        if table.is_none() {
            let cause = format!("`{}` is a table, not {}", self.path_of(key), kind(value.get_ref()));
            let remedy = format!("write [{0}] on a line of its own, or {key} = {{ … }}", self.path_of(key));
            self.inspection.error(value.span(), Wrong::new(cause, remedy));
        }
        table
    }

    fn read_one<T>(
        &self,
        key: &str,
        value: &Spanned<DeValue<'_>>,
        read: impl FnOnce(&DeValue<'_>) -> Result<T, Wrong>,
    ) -> Option<Spanned<T>> {
        match read(value.get_ref()) {
            Ok(read) => Some(Spanned::new(value.span(), read)),
            Err(Wrong { cause, remedy }) => {
                let cause = format!("`{}`: {cause}", self.path_of(key));
                self.inspection.error(value.span(), Wrong { cause, remedy });
                None
            }
        }
    }
}

/// What a value is, with its article.
pub(super) fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
