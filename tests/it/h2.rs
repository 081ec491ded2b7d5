//! HTTP/2: who does not take an answer has no job, and who sends what no client would harms nobody else.

mod attacks;
mod claims;
