//! The matrix as a table in a document, which it must agree with.

use std::env;
use std::fs;
use std::path::Path;

const BEGIN: &str = "<!-- What tests/peers_end_of_data.rs saw. -->\n";
const END: &str = "<!-- The end of what it saw. -->\n";

/// Panics unless the document has this table; with `GATEPOST_BLESS` set, it gets it.
#[track_caller]
pub fn assert_written(table: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/end-of-data.md");
    let text = fs::read_to_string(&file).expect("docs/end-of-data.md");
    let (before, rest) = text.split_once(BEGIN).expect("where the table begins");
    let (written, after) = rest.split_once(END).expect("where the table ends");
    if env::var_os("GATEPOST_BLESS").is_some() {
        fs::write(&file, format!("{before}{BEGIN}{table}{END}{after}")).expect("docs/end-of-data.md");
        return;
    }
    let (seen, written): (Vec<_>, Vec<_>) = (table.lines().collect(), written.lines().collect());
    let new: Vec<_> = seen.iter().filter(|line| !written.contains(line)).collect();
    let gone: Vec<_> = written.iter().filter(|line| !seen.contains(line)).collect();
    assert!(
        seen == written,
        "docs/end-of-data.md does not say what was seen (GATEPOST_BLESS=1 writes it anew)\nseen: {new:#?}\nwritten: {gone:#?}"
    );
}
