//! "Did you mean …": the word that a mistyped one was most likely meant to be.

/// The candidate nearest to `word`, if it is near enough to be worth suggesting: at most a third of the letters away,
/// transpositions counted once, case and `-`/`_` not at all.
pub(super) fn nearest<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    let word = fold(word);
    let allowed = (word.len() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (distance(&word, &fold(candidate)), candidate))
        .filter(|&(distance, candidate)| distance <= allowed && distance < candidate.len())
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, candidate)| candidate)
}

/// Letters as they are compared. Words from a file are cut, so that the cost has a bound.
fn fold(word: &str) -> Vec<char> {
    word.chars().take(64).map(|letter| if letter == '_' { '-' } else { letter.to_ascii_lowercase() }).collect()
}

/// The optimal string alignment distance: insertions, deletions, replacements, and swaps of neighbours.
fn distance(left: &[char], right: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut previous: Vec<usize> = (0..=right.len()).collect();
    let mut left_before = None;
    for (row, &from) in left.iter().enumerate() {
        let mut current = vec![row + 1];
        let mut right_before = None;
        for (column, &to) in right.iter().enumerate() {
            let at = |row: &[usize], column: usize| row.get(column).copied().unwrap_or(usize::MAX / 2);
            let mut least = at(&previous, column) + usize::from(from != to);
            least = least.min(at(&previous, column + 1) + 1).min(at(&current, column) + 1);
            if left_before == Some(to) && right_before == Some(from) {
                least = least.min(at(&before, column - 1) + 1);
            }
            current.push(least);
            right_before = Some(to);
        }
        before = std::mem::replace(&mut previous, current);
        left_before = Some(from);
    }
    previous.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEYS: [&str; 6] = ["backend", "listen", "wait_min", "wait_max", "threshold", "ttl"];

    #[test]
    fn suggests_what_was_meant_and_nothing_far_fetched() {
        let table = [
            ("backed", Some("backend")),
            ("bakcend", Some("backend")),
            ("Listen", Some("listen")),
            ("wait-min", Some("wait_min")),
            ("treshold", Some("threshold")),
            ("tll", Some("ttl")),
            ("color", None),
            ("x", None),
            ("", None),
        ];
        for (typed, meant) in table {
            assert_eq!(nearest(typed, KEYS), meant, "{typed}");
        }
    }

    #[test]
    fn a_swap_of_neighbours_is_one_step() {
        let letters = |word: &str| word.chars().collect::<Vec<_>>();
        assert_eq!(distance(&letters("drpo"), &letters("drop")), 1);
        assert_eq!(distance(&letters("kitten"), &letters("sitting")), 3);
        assert_eq!(distance(&letters(""), &letters("abc")), 3);
        assert_eq!(distance(&letters("abc"), &letters("")), 3);
    }

    proptest! {
        #[test]
        fn distance_is_symmetric_and_zero_only_for_equals(left in "[a-c]{0,6}", right in "[a-c]{0,6}") {
            let (a, b): (Vec<_>, Vec<_>) = (left.chars().collect(), right.chars().collect());
            prop_assert_eq!(distance(&a, &b), distance(&b, &a));
            prop_assert_eq!(distance(&a, &b) == 0, left == right);
        }
    }
}
