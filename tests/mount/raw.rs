//! Raw images of VMDKs under `.raw`: their content, and what is refused.

mod changes;
mod content;
mod guest;
mod made;
mod names;
mod refusals;
mod tools;
