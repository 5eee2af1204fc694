"""Object storage: S3 and directories, retries, presigned requests and garbage collection."""
