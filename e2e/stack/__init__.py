"""The whole product on a real Kubernetes: images, Prometheus, the chart. Shared by the demo and the e2e tests."""
