//! Exception and interrupt delivery.
