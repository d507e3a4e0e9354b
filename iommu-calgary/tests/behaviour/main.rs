//! What the unit promises to a guest and to the devices behind it.

mod attach;
mod map_rules;
mod model;
mod ownership;
mod quiescence;
mod rig;
mod translate;
