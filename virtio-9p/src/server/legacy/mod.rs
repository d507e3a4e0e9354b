//! The requests of 9P2000 and 9P2000.u that 9P2000.L replaced: open, create, stat, wstat, and reading a directory.

mod create;
mod directory;
mod open;
mod record;
mod wstat;
