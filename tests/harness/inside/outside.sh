#!/bin/busybox sh
# Inside a small guest: what it can reach, said again and again to who may be told. `at`, `told`, `kept` and `barred` (an address and
# three ports) come from the kernel's command line.
export PATH=/bin
/bin/busybox mkdir -p /proc /sys /etc /tmp
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sys /sys
. /modules/lists
for m in $all_list; do insmod /modules/$m.ko 2>/dev/null; done
until [ -e /sys/class/net/eth0 ]; do sleep 0.1; done
cat >/tmp/bound <<'EOF'
#!/bin/sh
[ "$1" = bound ] || exit 0
ip addr add $ip/$mask dev eth0; ip route add default via $router; echo "$ip" >/tmp/ip; echo "$dns" >/tmp/dns
EOF
chmod +x /tmp/bound
ip link set lo up; ip link set eth0 up
until udhcpc -i eth0 -n -q -s /tmp/bound >/dev/null 2>&1; do sleep 0.2; done
(while :; do sleep 100000 | nc $at $kept >/dev/null 2>&1; sleep 0.5; done) &
count=0
while :; do
  count=$((count + 1)) bad=
  good=$(nslookup -type=a localhost $(cat /tmp/dns) 2>&1 | grep -c 'Address: 127.0.0.1')
  evil=$(nslookup -type=a www.example.org $(cat /tmp/dns) 2>&1 | grep -c NXDOMAIN)
  for where in "$at $barred" "169.254.169.254 80" "$(cat /tmp/dns) 53" "9.9.9.9 443" "10.0.0.1 22"; do
    nc -w 3 $where </dev/null >/dev/null 2>&1 && bad="$bad,$where"
  done
  [ $count -gt 1 ] || { ping -c 1 -W 1 9.9.9.9 >/dev/null 2>&1 && bad="$bad,ping"; }
  ip -6 route | grep -q '^default' && bad="$bad,six"
  echo "$count $(cat /tmp/ip) good=$good evil=$evil bad=$bad" | nc -w 3 $at $told >/dev/null 2>&1
  sleep 0.3
done
