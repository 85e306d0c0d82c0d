use gatepost::smtp::line::{self, Facts, Scan};

use super::chunking_never_matters;

/// A line is what stands before its ending, its facts are those that one sees byte by byte, and nothing longer than the
/// limit is a line.
pub fn line(input: &[u8]) {
    for limit in [0, 1, 2, 16, line::COMMAND_LIMIT, usize::MAX] {
        chunking_never_matters(input, |part| line::scan(part, limit), |scan| *scan == Scan::Incomplete);
        match line::scan(input, limit) {
            Scan::Line(line) => {
                let (taken, _) = input.split_at(line.length);
                assert!(line.length <= limit);
                assert_eq!(taken.iter().position(|&byte| byte == b'\n'), Some(line.length - 1));
                let ending: &[u8] = if line.facts.bare_lf { b"\n" } else { b"\r\n" };
                assert_eq!(taken, [line.text, ending].concat());
                assert_eq!(line.facts, Facts { bare_lf: line.facts.bare_lf, ..seen(line.text) });
                assert!(!(line.facts.bare_lf && line.text.ends_with(b"\r")));
            }
            Scan::Incomplete => assert!(input.len() < limit && !input.contains(&b'\n')),
            Scan::TooLong => assert!(!input.split_at(limit).0.contains(&b'\n')),
        }
    }
}

fn seen(text: &[u8]) -> Facts {
    let control = |byte: &u8| !matches!(byte, 0 | b'\t' | b'\n' | b'\r') && byte.is_ascii_control();
    Facts {
        bare_lf: false,
        bare_cr: text.contains(&b'\r'),
        nul: text.contains(&0),
        eight_bit: !text.is_ascii(),
        control: text.iter().any(control),
    }
}
