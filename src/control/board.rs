//! A board on which the parts of gatepost put what they have to tell, each under its name.
//!
//! A part hands over a closure, and at a reload another one in its place. It is called when somebody asks: it must not wait.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::Value;

type Ask = Arc<dyn Fn() -> Value + Send + Sync>;

/// What there is to tell.
#[derive(Default)]
pub struct Board {
    /// A lock, because those who set and the one who asks are different tasks; held for a map of a handful.
    parts: Mutex<BTreeMap<&'static str, Ask>>,
}

impl fmt::Debug for Board {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Board").finish_non_exhaustive()
    }
}

impl Board {
    /// Puts `tell` under `name`, in place of what was there.
    pub fn set(&self, name: &'static str, tell: impl Fn() -> Value + Send + Sync + 'static) {
        self.parts.lock().insert(name, Arc::new(tell));
    }

    /// Takes away what is under `name`.
    pub fn clear(&self, name: &str) {
        self.parts.lock().remove(name);
    }

    /// What all have to tell; those that say `null` have nothing to.
    pub fn tell(&self) -> BTreeMap<String, Value> {
        let parts: Vec<_> = self.parts.lock().iter().map(|(name, tell)| (*name, Arc::clone(tell))).collect();
        let told = parts.into_iter().map(|(name, tell)| (name.to_owned(), tell()));
        told.filter(|(_, value)| !value.is_null()).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_last_word_of_each_part_is_told() {
        let board = Board::default();
        board.set("store", || json!("well"));
        board.set("shared", || json!({"state": "away"}));
        board.set("store", || json!("full"));
        board.set("firewall", || Value::Null);
        let told = board.tell();
        assert_eq!(json!(told), json!({"store": "full", "shared": {"state": "away"}}));
        board.clear("shared");
        assert_eq!(board.tell().len(), 1);
    }
}
