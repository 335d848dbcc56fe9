//! The documentation is true: commands run, configuration parses, flags, links, tests, messages and
//! reasons that it names exist, and the reference is what the types say.
//!
//! Every fenced block of commands has a comment right above it:
//!
//! * `<!-- run: SCENE -->` or `<!-- run: SCENE, exit 1 -->`: [`run`] runs it, in a [`scene`] made
//!   for the blocks of this page that name it, one after another;
//! * `<!-- not run: WHY -->`: its calls of `osm-agent` have to parse.
//!
//! Above a block of text, `<!-- output -->` says that the block of commands before it prints these
//! lines, and `<!-- message -->` that the agent's code has them. `…` stands for anything.

mod commands;
mod facts;
mod markdown;
mod monitoring;
mod page;
mod reference;
mod run;
mod scene;
