package network

import (
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"
)

// nftSet is a table of nftables. iptables-nft writes such tables, too.
type nftSet struct {
	table *nftables.Table
	all   map[string]*chain
	rules map[mark][]*nftables.Rule
}

// nftSets gives the tables that can drop packets of IP at the hooks.
func nftSets() ([]foreignSet, error) {
	c, err := nftables.New()
	if err != nil {
		return nil, err
	}
	list, err := c.ListChains()
	if err != nil {
		return nil, err
	}
	tables := map[nftables.Table][]*nftables.Chain{}
	drops := map[nftables.Table]bool{}
	for _, ch := range list {
		if ch.Table == nil || strings.HasPrefix(ch.Table.Name, "kiln_") {
			continue
		}
		t := nftables.Table{Family: ch.Table.Family, Name: ch.Table.Name}
		tables[t] = append(tables[t], ch)
		c := nftChain(ch)
		drops[t] = drops[t] || c.drops && c.hook != ""
	}
	var sets []foreignSet
	for t, chains := range tables {
		s := foreignSet{name: t.Name + " (nftables)", four: t.Family == nftables.TableFamilyINet ||
			t.Family == nftables.TableFamilyIPv4, six: t.Family == nftables.TableFamilyINet ||
			t.Family == nftables.TableFamilyIPv6}
		if !s.four && !s.six {
			continue
		}
		set := nftSet{table: &nftables.Table{Family: t.Family, Name: t.Name}, all: map[string]*chain{},
			rules: map[mark][]*nftables.Rule{}}
		for _, ch := range chains {
			set.all[ch.Name] = nftChain(ch)
			// Of a table that dropped before, rules of ours may be left.
			if drops[t] || set.all[ch.Name].hook != "" || isUsersChain(ch.Name) {
				if err := set.read(c, ch); err != nil {
					return sets, err
				}
			}
		}
		s.ruleSet = set
		sets = append(sets, s)
	}
	return sets, nil
}

func nftChain(ch *nftables.Chain) *chain {
	c := &chain{drops: ch.Policy != nil && *ch.Policy == nftables.ChainPolicyDrop}
	if ch.Hooknum != nil && ch.Type == nftables.ChainTypeFilter {
		switch *ch.Hooknum {
		case *nftables.ChainHookForward:
			c.hook = hookForward
		case *nftables.ChainHookInput:
			c.hook = hookInput
		}
	}
	return c
}

// read reads what matters of the rules of a chain.
func (s nftSet) read(c *nftables.Conn, ch *nftables.Chain) error {
	rules, err := c.GetRules(s.table, ch)
	if err != nil {
		return err
	}
	to := s.all[ch.Name]
	for _, r := range rules {
		for _, e := range r.Exprs {
			if v, ok := e.(*expr.Verdict); ok && (v.Kind == expr.VerdictJump || v.Kind == expr.VerdictGoto) {
				to.jumps = append(to.jumps, v.Chain)
			}
		}
		if comment := nftComment(r); strings.HasPrefix(comment, "kiln ") {
			to.ours = append(to.ours, comment)
			m := mark{ch.Name, comment}
			s.rules[m] = append(s.rules[m], r)
		}
	}
	return nil
}

// nftComment gives the comment of a rule, as nft and as iptables-nft write it.
func nftComment(r *nftables.Rule) string {
	if comment, ok := userdata.GetString(r.UserData, userdata.TypeComment); ok {
		return comment
	}
	for _, e := range r.Exprs {
		if m, ok := e.(*expr.Match); ok && m.Name == "comment" {
			if text, ok := m.Info.(*xt.Comment); ok {
				return string(*text)
			}
		}
	}
	return ""
}

func (s nftSet) chains() map[string]*chain { return s.all }

func (s nftSet) replace(remove []mark, add []opening) error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	for _, m := range remove {
		for _, r := range s.rules[m] {
			if err := c.DelRule(&nftables.Rule{Table: s.table, Chain: r.Chain, Handle: r.Handle}); err != nil {
				return err
			}
		}
		s.rules[m] = nil // two with the same comment are removed by one of the marks
	}
	for _, o := range add {
		c.InsertRule(&nftables.Rule{Table: s.table, Chain: &nftables.Chain{Name: o.chain, Table: s.table},
			Exprs: o.exprs(s.table), UserData: userdata.AppendString(nil, userdata.TypeComment, o.comment)})
	}
	return c.Flush()
}

// exprs are a rule as both nft and iptables-nft read it: with an expression that it
// doesn't know, iptables-nft refuses to touch the whole table.
func (o opening) exprs(t *nftables.Table) []expr.Any {
	var list []expr.Any
	for key, name := range map[expr.MetaKey]string{expr.MetaKeyIIFNAME: o.in, expr.MetaKeyOIFNAME: o.out} {
		if name != "" {
			list = append(list, &expr.Meta{Key: key, Register: 1},
				&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: interfaceData(name)})
		}
	}
	if o.protocol != 0 {
		list = append(list, &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{o.protocol}})
	}
	if o.port != 0 {
		list = append(list, &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(o.port)})
	}
	if o.only != ctAny {
		list = append(list, o.conntrack(t)...)
	}
	return append(list, &expr.Counter{}, &expr.Verdict{Kind: expr.VerdictAccept})
}

// What the kernel says of a connection: include/uapi/linux/netfilter/nf_conntrack_common.h
// and xt_conntrack.h, which shifts the states by one.
const (
	ctStateAnswers  = 2 | 4  // established, related
	ctStatusDNAT    = 1 << 5 // IPS_DST_NAT
	xtStateAnswers  = 1<<1 | 1<<2
	xtStateForwards = 1 << 7 // the destination was changed
)

func (o opening) conntrack(t *nftables.Table) []expr.Any {
	if t.Family != nftables.TableFamilyINet {
		info := &xt.ConntrackMtinfo3{}
		info.MatchFlags, info.StateMask = uint16(xt.ConntrackState|xt.ConntrackStateAlias), xtStateAnswers
		if o.only == ctForwarded {
			info.StateMask = xtStateForwards
		}
		return []expr.Any{&expr.Match{Name: "conntrack", Rev: 3, Info: info}}
	}
	key, mask := expr.CtKeySTATE, uint32(ctStateAnswers)
	if o.only == ctForwarded {
		key, mask = expr.CtKeySTATUS, ctStatusDNAT
	}
	return []expr.Any{&expr.Ct{Key: key, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(mask),
			Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)}}
}

// interfaceData is a name as the kernel compares it.
func interfaceData(name string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, name)
	return b
}
