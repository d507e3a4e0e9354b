//! The cases, by what they are about.

use crate::said::{Result, Said};

/// Does something in the working folder and says what happened.
pub(crate) type Case = fn(&mut Said) -> Result;

/// Lists the cases of a file, which the compiler would otherwise take for dead code.
macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        pub(super) const CASES: &[(&str, super::Case)] = &[$((stringify!($name), $name)),*];
    };
}

mod access_lists;
mod attributes;
mod content;
mod descriptors;
mod directories;
mod hard_links;
mod locks;
mod mapping;
mod names;
mod owners;
mod permissions;
mod races;
mod renames;
mod space;
mod special_files;
mod symbolic_links;
mod times;
mod unlinked;

/// Every case: groups, and the names within them.
pub(crate) const ALL: &[(&str, &[(&str, Case)])] = &[
    ("content", content::CASES),
    ("space", space::CASES),
    ("descriptors", descriptors::CASES),
    ("mapping", mapping::CASES),
    ("names", names::CASES),
    ("directories", directories::CASES),
    ("hard-links", hard_links::CASES),
    ("symbolic-links", symbolic_links::CASES),
    ("renames", renames::CASES),
    ("unlinked", unlinked::CASES),
    ("permissions", permissions::CASES),
    ("owners", owners::CASES),
    ("access-lists", access_lists::CASES),
    ("attributes", attributes::CASES),
    ("special-files", special_files::CASES),
    ("times", times::CASES),
    ("locks", locks::CASES),
    ("races", races::CASES),
];
