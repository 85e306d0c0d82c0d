//! The demo's table.

use std::fmt::Write;

use super::Story;
use super::visitor::Fate;

const HEAD: [&str; 5] = ["visitor", "what it does", "what it hears in the end", "after", "what became of it"];

/// The widest a reply is shown.
const REPLY: usize = 46;

/// The stories, one a line, the columns as wide as they need to be.
pub(super) fn of(stories: &[Story]) -> String {
    let rows: Vec<[String; 5]> = stories.iter().map(row).collect();
    let mut widths = HEAD.map(str::len);
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = String::new();
    line(&mut out, &HEAD.map(str::to_owned), &widths);
    line(&mut out, &widths.map(|width| "─".repeat(width)), &widths);
    for row in &rows {
        line(&mut out, row, &widths);
    }
    out
}

fn row(story: &Story) -> [String; 5] {
    let mut fate = match (story.visitor.should, story.met_mta) {
        (Fate::Delivered, true) => "delivered".to_owned(),
        (Fate::Delivered, false) => "did not reach the MTA".to_owned(),
        (Fate::TurnedAway(_), false) => format!("turned away by {}", story.failed.join(", ")),
        (Fate::TurnedAway(_), true) => "reached the MTA".to_owned(),
    };
    if !story.as_it_should {
        fate.push_str("  ← NOT as it should");
    }
    [
        story.visitor.who.to_owned(),
        story.visitor.does.to_owned(),
        shortened(&story.reply),
        format!("{:.1} s", story.took.as_secs_f32()),
        fate,
    ]
}

fn shortened(reply: &str) -> String {
    if reply.chars().count() <= REPLY {
        return reply.to_owned();
    }
    let mut short: String = reply.chars().take(REPLY - 1).collect();
    short.push('…');
    short
}

fn line(out: &mut String, cells: &[String; 5], widths: &[usize; 5]) {
    let mut text = String::new();
    for (cell, &width) in cells.iter().zip(widths) {
        let _ = write!(text, "  {cell:<width$}");
    }
    out.push_str(text.trim_end());
    out.push('\n');
}
