//! Mail data: where a message ends, and how it is made unambiguous on the way (RFC 5321 §2.3.8, §4.1.1.4, §4.5.2).
