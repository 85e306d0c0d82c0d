//! Holds `docs/attacks.md` to the tests: each that it names exists, and each row names one.

#![allow(clippy::expect_used, clippy::panic, reason = "a test: the files are ours, and it may panic")]

use std::fs;
use std::path::{Path, PathBuf};

/// The file of the repository that `file` stands for in the page: without a folder, a file of `tests`.
fn path(file: &str) -> PathBuf {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    match file.contains('/') {
        true => repository.join(file),
        false => repository.join("tests").join(file).with_extension("rs"),
    }
}

/// Whether `source` has a test of that name: its attribute is among the few lines before it.
fn has_test(source: &str, name: &str) -> bool {
    let declaration = format!("fn {name}(");
    source.match_indices(&declaration).any(|(at, _)| {
        let before = source.get(..at).unwrap_or_default();
        let attributes = before.lines().rev().take(4).any(|line| line.trim_start().starts_with("#["));
        attributes && before.contains("test")
    })
}

#[test]
fn each_attack_has_its_test() {
    let page = fs::read_to_string(path("docs/attacks.md")).expect("docs/attacks.md");
    let mut count = 0;
    for row in
        page.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| attack") && !line.contains("---"))
    {
        let shown = row.trim_end_matches(" |").rsplit(" | ").next().unwrap_or_default();
        let tests: Vec<_> = shown.split('`').skip(1).step_by(2).filter_map(|name| name.rsplit_once("::")).collect();
        assert!(!tests.is_empty(), "no test is named in: {row}");
        for (file, name) in tests {
            let source = fs::read_to_string(path(file)).unwrap_or_else(|_| panic!("no file {file}: {row}"));
            assert!(has_test(&source, name), "no test {name} in {file}: {row}");
        }
        count += 1;
    }
    assert!(count > 100, "only {count} rows were found");
}

#[test]
fn what_is_no_test_is_found_out() {
    let source = "#[test]\nfn one() {}\n\n\n\n\nfn two() {}\n";
    assert!(has_test(source, "one"));
    assert!(!has_test(source, "two"));
    assert!(!has_test(source, "on"));
}
