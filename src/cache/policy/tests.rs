//! Policies beside slow models, under random operations.
