"""What tests share: servers to run against, and programs to run."""
