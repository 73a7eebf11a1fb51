"""`--netcapture-chaos`: each test again for every recorded exchange and every kind of fault."""
