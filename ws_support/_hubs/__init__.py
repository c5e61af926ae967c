"""SignalR: hubs, the protocols that they speak, and the transports that carry them."""
