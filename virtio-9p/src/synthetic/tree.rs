//! What a synthetic tree is made of.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::errno::Errno;

type Read = dyn Fn() -> Vec<u8> + Send + Sync;
type Write = dyn Fn(&[u8]) -> Result<(), Errno> + Send + Sync;
type List = dyn Fn() -> Vec<String> + Send + Sync;
type Find = dyn Fn(&str) -> Option<Item> + Send + Sync;

/// A file made of closures. Cheap to clone.
#[derive(Clone)]
pub struct File {
    read: Arc<Read>,
    write: Option<Arc<Write>>,
}

impl File {
    /// A file with the content that `read` makes. It is called from any thread, possibly several at once.
    pub fn of(read: impl Fn() -> Vec<u8> + Send + Sync + 'static) -> File {
        File { read: Arc::new(read), write: None }
    }

    /// The same file, which hands every write to `write`.
    #[must_use]
    pub fn taking(self, write: impl Fn(&[u8]) -> Result<(), Errno> + Send + Sync + 'static) -> File {
        File { write: Some(Arc::new(write)), ..self }
    }

    pub(super) fn content(&self) -> Vec<u8> {
        (self.read)()
    }

    pub(super) fn take(&self, data: &[u8]) -> Result<(), Errno> {
        self.write.as_ref().map_or(Err(Errno::EACCES), |write| write(data))
    }

    pub(super) fn is_writable(&self) -> bool {
        self.write.is_some()
    }
}

/// A directory with fixed entries, and possibly others made on demand. Cheap to clone.
#[derive(Clone, Default)]
pub struct Directory {
    fixed: Arc<BTreeMap<String, Item>>,
    made: Option<(Arc<List>, Arc<Find>)>,
}

impl Directory {
    /// An empty directory.
    pub fn new() -> Directory {
        Directory::default()
    }

    /// The same directory with one entry more; an entry of that name is replaced. A name that no file can have (empty,
    /// `.`, `..`, with `/` or NUL, longer than 255 bytes) is listed but never found.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, item: impl Into<Item>) -> Directory {
        Arc::make_mut(&mut self.fixed).insert(name.into(), item.into());
        self
    }

    /// The same directory with entries made on demand: `list` names them, `find` makes one. Fixed entries come first.
    #[must_use]
    pub fn listing(
        self,
        list: impl Fn() -> Vec<String> + Send + Sync + 'static,
        find: impl Fn(&str) -> Option<Item> + Send + Sync + 'static,
    ) -> Directory {
        Directory { made: Some((Arc::new(list), Arc::new(find))), ..self }
    }

    pub(super) fn find(&self, name: &str) -> Option<Item> {
        self.fixed.get(name).cloned().or_else(|| (self.made.as_ref()?.1)(name))
    }

    /// All names, with whether each is known to be a directory or a file.
    pub(super) fn entries(&self) -> Vec<(String, Option<bool>)> {
        let mut all: Vec<(String, Option<bool>)> =
            self.fixed.iter().map(|(name, item)| (name.clone(), Some(matches!(item, Item::Directory(_))))).collect();
        if let Some((list, _)) = &self.made {
            all.extend(list().into_iter().filter(|name| !self.fixed.contains_key(name)).map(|name| (name, None)));
        }
        all
    }

    /// How many of the fixed entries are directories.
    pub(super) fn directories(&self) -> usize {
        self.fixed.values().filter(|item| matches!(item, Item::Directory(_))).count()
    }
}

/// A file or a directory.
#[derive(Clone, Debug)]
pub enum Item {
    /// A file.
    File(File),
    /// A directory.
    Directory(Directory),
}

impl From<File> for Item {
    fn from(file: File) -> Item {
        Item::File(file)
    }
}

impl From<Directory> for Item {
    fn from(directory: Directory) -> Item {
        Item::Directory(directory)
    }
}

impl fmt::Debug for File {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_struct("File").field("writable", &self.is_writable()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Directory {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_struct("Directory").field("fixed", &self.fixed).finish_non_exhaustive()
    }
}
