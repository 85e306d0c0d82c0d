//! In which class a client is counted: what it has shown of itself decides how much of the house it may have.

/// The classes, from the one that is turned away first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Class {
    /// It has done wrong lately.
    Bad,
    /// A stranger.
    Unknown,
    /// It has passed every test lately.
    Passed,
    /// On the access list. Nothing is counted of it but that it is there.
    Allowed,
}

impl Class {
    /// Whether what is kept free is kept free for it.
    pub fn is_known(self) -> bool {
        self >= Self::Passed
    }
}

/// Something for each class that has a limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PerClass<T> {
    /// For [`Class::Passed`].
    pub passed: T,
    /// For [`Class::Unknown`].
    pub unknown: T,
    /// For [`Class::Bad`].
    pub bad: T,
}

impl<T: Copy> PerClass<T> {
    /// The same for all.
    pub fn all(each: T) -> Self {
        Self { passed: each, unknown: each, bad: each }
    }

    /// That of `class`; none for those who have no limit.
    pub fn of(&self, class: Class) -> Option<T> {
        match class {
            Class::Bad => Some(self.bad),
            Class::Unknown => Some(self.unknown),
            Class::Passed => Some(self.passed),
            Class::Allowed => None,
        }
    }
}
