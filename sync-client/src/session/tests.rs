//! What a session does, transition by transition.
