//! Plans and traces as pictures: one SVG file each, which needs nothing else.
//!
//! What is smaller than a pixel is merged with its neighbours, so that a picture has a bounded
//! number of shapes however many tensors there are.

mod plan;
pub(crate) mod svg;
mod timeline;

pub use plan::{Colours, plan};
pub use timeline::{Timeline, timeline};

use std::io::Write;
use std::path::Path;

use crate::error::{Result, fail};

/// Writes a picture to the file `path`.
///
/// # Errors
/// `Io`.
pub fn write(picture: &str, path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    let written = std::fs::File::create(path).and_then(|mut to| to.write_all(picture.as_bytes()));
    written.map_err(|error| fail!(Io, "picture `{}`: cannot write: {error}", path.display()))
}
