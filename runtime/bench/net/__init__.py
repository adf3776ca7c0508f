"""``zerohop bench net``: the TCP/IP stack beside the kernel's, over veth pairs."""
