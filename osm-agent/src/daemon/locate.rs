//! Where a pod is in the kernel: its cgroup, its network namespace, its users.
